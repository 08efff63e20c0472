"""Linear evaluation: a linear head is trained on frozen features.

Open ``linear.py`` first. Features of centre views are computed once (``feature_store.py``); the head
(``probe_head.py``) is trained on them (``probe_learner.py``) and written (``probe_file.py``).
"""
