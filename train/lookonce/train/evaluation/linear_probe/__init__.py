"""Linear evaluation: features are computed once (``feature_store.py``), then a linear head is trained on them.

Open ``linear.py`` first.
"""
