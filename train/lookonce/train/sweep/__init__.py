"""Several students from one pass over the caches: ``sweep_file.py`` reads the runs, ``lockstep.py`` steps them."""
