"""The student and its alignment with the teachers: visible patches in, one loss out.

Open ``alignment.py`` first: dynamic alignment, equation by equation. ``student.py`` is the vision transformer,
``adapters.py`` maps its width to the teacher's, ``alignment_step.py`` is the forward pass that is compiled. Files of
students are written by ``student_file.py`` and read by ``student_weights.py``.
"""
