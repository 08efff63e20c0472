"""``train-student --launcher ray``: the processes of a run on a Ray cluster, started again when one is lost.

Open ``launch.py`` first: it places processes (``placement.py``), each of which runs ``process.py`` and reports to the
coordinator (``coordinator.py``).
"""
