"""Verifying a cache: all problems on disk become findings of a report, none raises an error.

Open ``verification.py`` first: it checks documents (``documents.py``), shards (``shard_check.py``), digests
(``digests.py``) and stray files (``strays.py``), and returns a report of findings (``findings.py``).
"""
