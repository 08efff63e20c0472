"""Writing a cache: a folder with a manifest, then shard after shard, each with its receipt last.

Open ``shard_writer.py`` first: samples are appended, objects digested as they are written, and the receipt commits
them. ``create.py`` makes or joins the folder, ``stored_patches.py`` chooses the patches to keep, ``sizes.py`` predicts
the bytes of a cache.
"""
