"""The processes of one run.

Open ``world.py`` first: ranks, and the few messages that processes exchange beside gradients. ``parallel.py`` is the
forward pass over a replicated (DDP) or sharded (FSDP2) model.
"""
