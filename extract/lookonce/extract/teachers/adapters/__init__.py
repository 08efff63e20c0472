"""Adapters for the vision transformers of timm and open_clip: patches in, blocks one by one, no head.

Open ``trunk.py`` first: the interface that every adapter implements. ``table.adapter_of`` imports an adapter when a
teacher needs it; only ``open_clip_adapter.py`` imports open_clip.
"""
