"""Which caches there are, who needs them, and what may be deleted.

Every extraction, conversion and training run enters its caches in the catalogue, a folder of one small JSON file per
cache. Commands find caches there by teacher, view size or name. ``pins.py`` keeps a cache from being deleted while a
run or a person needs it; ``removal.py`` and ``clean_up.py`` delete what nobody does. Open ``catalogue.py`` first.

The catalogue is a convenience: a cache is complete without it, and trouble with it never stops a run.
"""
