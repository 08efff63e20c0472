"""Several students from one pass over the caches.

Open ``lockstep.py`` first: it steps all runs on the same batches. ``sweep_file.py`` reads the runs.
"""
