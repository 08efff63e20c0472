"""The measures of ``evaluate-student``: one file each.

Open ``options.py`` first: the flags that they share, and how the model and the images are opened.
"""
