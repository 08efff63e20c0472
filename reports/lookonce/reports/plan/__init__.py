"""``feature-cache plan``: estimates bytes, time and break-even of an extraction.

Open ``plan.py`` first: it times a few seconds of real work (``probe.py``), computes sizes (``planned_sizes.py``) and
the break-even (``break_even.py``), and returns a plan (``report.py``).
"""
