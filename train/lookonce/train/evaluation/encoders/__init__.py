"""What is evaluated: a student or a teacher that turns views into one feature vector each.

Open ``encoder.py`` first: the protocol, and features of a whole split.
"""
