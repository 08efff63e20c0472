"""What timm's and open_clip's vision transformers have in common for us: patches in, blocks one by one, no head.

Open ``trunk.py`` first: what an adapter makes of a library's model. ``table.adapter_of`` imports an adapter when a
teacher needs it; ``open_clip_adapter.py`` alone imports open_clip.
"""
