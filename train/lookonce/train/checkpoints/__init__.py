"""Checkpoints: everything that decides the rest of a run, written by rename, read without running code.

Open ``checkpoint_file.py`` first. ``sharded_checkpoint.py`` writes a folder to which each process adds its part,
``resuming.py`` finds the checkpoint of a run and refuses those of others, ``lengthening.py`` trains a run further than
planned, ``trained_alignment.py`` reads the alignment of a trained run.
"""
