"""What an extraction takes from an earlier cache (``--reuse``): stored values, or views instead of images.

Open ``earlier_cache.py`` first: it compares the two caches. ``copied_samples.py`` copies, ``cached_images.py`` stands
in for the image source.
"""
