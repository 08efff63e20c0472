"""Reading a cache: (seed, row, visible tokens) to bytes, at the speed of memory.

Open ``reader.py`` first: ``CacheReader`` maps objects into memory (``mapped_objects.py``), checks their digests on
first use, and tells the kernel what comes next (``readahead.py``). ``replayed_views.py`` crops views again that a cache
does not store.
"""
