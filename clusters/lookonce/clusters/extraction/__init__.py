"""Extraction in Ray workers: shards go to workers as they become free, events come back.

Open ``executor.py`` first: ``worker_pool.py`` sends the tasks of ``scheduler.py`` to actors (``worker.py``), which
write whole shards themselves. ``resources.py`` computes the number of workers, ``run.py`` is stage one with the
executor of its config.
"""
