"""Converting a cache: another container, fewer bits, fewer tokens or another shard size, from what is stored.

Open ``conversion.py`` first: it turns a request (``request.py``) into a manifest and converts shard by shard
(``shard_conversion.py``).
"""
