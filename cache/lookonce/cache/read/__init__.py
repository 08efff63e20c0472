"""Reading a cache: (seed, row, visible tokens) to stored bytes, at the speed of memory.

Open ``reader.py`` first: ``CacheReader`` maps objects into memory (``mapped_objects.py``), checks their digests on
first use, and announces the next samples to the kernel (``readahead.py``). ``replayed_views.py`` crops views again if
a cache does not store them.
"""
