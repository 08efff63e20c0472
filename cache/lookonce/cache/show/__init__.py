"""What ``feature-cache show`` prints and draws: the facts of a cache, and a picture of some of its samples.

Facts flow from ``description.py`` to ``description_text.py``, samples from ``picture_samples.py`` to ``picture.py``.
"""
