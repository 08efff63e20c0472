"""The processes of one run: who they are (``world.py``) and how they share a model (``parallel.py``: DDP or FSDP2)."""
