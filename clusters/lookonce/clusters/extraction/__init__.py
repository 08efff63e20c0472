"""Extraction in Ray workers: shards go to workers as they become free, progress and receipts come back.

Open ``executor.py`` first: it gives ``worker_pool.py`` the tasks of ``scheduler.py``; each actor (``worker.py``) writes
whole shards itself. ``resources.py`` counts workers, ``run.py`` is stage one by the executor that a config names.
"""
