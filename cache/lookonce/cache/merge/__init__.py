"""Joins caches of one recipe that contain different seeds or shards. Open ``merging.py``."""
