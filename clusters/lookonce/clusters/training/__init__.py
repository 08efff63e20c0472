"""``train-student --launcher ray``: the processes of a run on a Ray cluster, restarted if one is lost.

Open ``launch.py`` first: it places the processes (``placement.py``). Each of them runs ``process.py`` and reports to
the coordinator (``coordinator.py``).
"""
