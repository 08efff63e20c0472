"""The cache on disk between the two stages: extraction writes it, training reads it.

Samples flow through ``write/`` into the shards of a container (``containers/``), and through ``read/`` to training.
``layout.py`` defines the paths, ``committed.py`` decides which shards count. ``verify/``, ``convert/`` and ``show/``
implement the commands of ``feature-cache``; ``zarr_plugin/`` lets stock zarr decode targets. Open ``read/reader.py``
first.
"""
