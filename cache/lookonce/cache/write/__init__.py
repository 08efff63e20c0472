"""Writing a cache: a folder with a manifest, then shard after shard, each with its receipt last.

Open ``shard_writer.py`` first: it appends samples, computes digests meanwhile, and commits a shard by its receipt.
``create.py`` creates or continues the folder, ``stored_patches.py`` chooses the patches to store, ``sizes.py`` predicts
the bytes of a cache.
"""
