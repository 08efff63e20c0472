"""``feature-cache drift``: whether the teacher still gives the features that a cache contains.

Open ``check.py`` first: it samples views (``sampled_views.py``), runs the teacher twice, and returns a report
(``report.py``) with the rule for what counts as drift.
"""
