"""The subcommands of ``feature-cache`` that use the catalogue: list and find caches, pin and delete them.

Open ``query_options.py`` first: the flags that ``list``, ``find`` and ``gc`` share. ``cache_names.py`` lets every
command take a name or a fingerprint of the catalogue instead of a path.
"""
