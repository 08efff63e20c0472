"""Stock zarr reads targets as floats: the codec that zarr finds by its entry point, and a seed opened through it.

Open ``decoded_group.py`` first.
"""
