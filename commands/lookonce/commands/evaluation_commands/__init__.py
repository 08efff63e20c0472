"""The measures of ``evaluate-student``: one file each, and the flags that they have in common (``options.py``)."""
