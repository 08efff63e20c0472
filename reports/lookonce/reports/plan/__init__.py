"""``feature-cache plan``: bytes, time and break-even of an extraction, before anything is spent.

Open ``plan.py`` first: it times a few seconds of real work (``probe.py``), computes sizes (``planned_sizes.py``) and
the break-even (``break_even.py``), and returns a document that ``text.py`` turns into lines.
"""
