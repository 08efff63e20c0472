"""Checkpoints: everything that decides the rest of a run, written by rename, read without running code.

Open ``checkpoint_file.py`` first. ``sharded_checkpoint.py`` writes a folder to which each process adds its part,
``foreign_file.py`` says what a file is that is no checkpoint, ``lengthening.py`` trains a run further than planned.
"""
