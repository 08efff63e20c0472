"""Reuse of an earlier cache (``--reuse``): its stored values are copied, or its views replace the images.

Open ``earlier_cache.py`` first: it compares the two caches. ``copied_samples.py`` copies samples, ``cached_images.py``
replaces the image source.
"""
