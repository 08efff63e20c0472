"""``feature-cache fidelity``: what each precision costs in bytes, and what it loses.

Exact features come from a cache (``reference.py``) or a teacher (``teacher_reference.py``); ``measure.py`` passes over
them once, with an ``error_meter.py`` per precision and a stand-in student (``student_sensitivity.py``). ``text.py`` and
``plot.py`` show the document.
"""
