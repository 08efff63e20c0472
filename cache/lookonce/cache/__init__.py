"""The cache on disk, between the two stages: written by extraction, read by training.

Samples flow through ``write/`` into the shards of a container (``containers/``), and from there through ``read/`` to
training. ``layout.py`` says where everything lies, ``committed.py`` which shards count. ``verify/``, ``convert/`` and
``show/`` answer ``feature-cache``; ``zarr_plugin/`` lets stock zarr decode targets. Open ``read/reader.py`` first.
"""
