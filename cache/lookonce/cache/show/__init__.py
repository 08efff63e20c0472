"""The facts that ``feature-cache show`` prints, and the picture of some samples that it draws.

Open ``description.py`` first: it gathers the facts (``facts.py``). Samples flow from ``picture_samples.py`` to
``picture.py``.
"""
