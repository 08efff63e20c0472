"""What ``feature-cache show`` prints and draws: the facts of a cache, and a picture of some of its samples.

Open ``description.py`` first: it gathers the facts (``facts.py``). Samples flow from ``picture_samples.py`` to
``picture.py``.
"""
