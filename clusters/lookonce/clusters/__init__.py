"""Both stages on a Ray cluster. Only this package imports Ray, and both stages run without it.

``extraction/`` sends shards to Ray workers and returns their events. ``training/`` starts the processes of a training
run. ``cluster.py`` joins or starts a cluster, ``head_watch.py`` detects the loss of its head. Open
``extraction/executor.py`` first.
"""
