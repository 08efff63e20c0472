"""The caches of a run: one or several, on a disk or at URLs, as one set of samples.

Open ``joined_caches.py`` first: it joins them by (key, seed) with the keys of ``sample_keys.py``. ``objects_ahead.py``
says which objects of caches at URLs a run reads next.
"""
