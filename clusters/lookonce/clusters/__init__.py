"""Ray: the only package that imports it. Both stages run without.

``cluster.py`` joins or starts a cluster, ``head_watch.py`` notices when its head is gone. ``extraction/`` runs the
shards of an extraction in Ray workers; ``training/`` starts the processes of a training run. Open
``extraction/executor.py`` first.
"""
