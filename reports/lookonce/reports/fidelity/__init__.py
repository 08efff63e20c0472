"""``feature-cache fidelity``: the bytes and the loss of each precision.

Open ``measure.py`` first: it passes once over exact features of a cache (``reference.py``) or a teacher
(``teacher_reference.py``), with an error meter per precision (``error_meter.py``) and a stand-in student
(``student_sensitivity.py``), and returns a report (``report.py``), which ``plot.py`` draws.
"""
