"""Caches in object stores, on the hub and on web servers: push, pull, verify and describe them.

Open ``push.py`` first: it sends the objects of a folder (``local_content.py``), under claims that keep other pushes
out (``claims.py``). ``pull.py`` is the way back. Both read the documents at the URL through ``remote_cache.py``, and
move objects through ``transport/``. ``verify_url.py`` and ``describe_url.py`` work on a copy of the documents
(``mirror.py``).

obstore is imported when a URL is opened, not before. It does not survive a fork, so a store belongs to the process that
opened it.
"""
