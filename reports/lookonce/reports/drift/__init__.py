"""``feature-cache drift``: does the teacher still give what the cache holds?

Open ``check.py`` first: it samples views (``sampled_views.py``), runs the teacher twice, and returns a report
(``report.py``) with the rule for what counts as drift.
"""
