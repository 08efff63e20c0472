"""Verifying a cache: every problem is found and named; nothing on disk raises.

Open ``verification.py`` first: it checks documents, shards and stray files, and returns a report of findings
(``findings.py``).
"""
