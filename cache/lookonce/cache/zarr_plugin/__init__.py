"""Reading targets as floats by stock zarr: a codec, found by its entry point, and a group that uses it.

Open ``decoded_group.py`` first: it opens the chunks of a seed with metadata that name the codec (``codec.py``).
"""
