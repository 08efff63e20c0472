"""Converting a cache to another container, fewer bits, fewer tokens or another shard size, without the teacher.

Open ``conversion.py`` first: it turns a request (``request.py``) into a manifest, and converts shard by shard
(``shard_conversion.py``).
"""
