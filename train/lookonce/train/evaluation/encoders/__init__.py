"""Encoders: a student or a teacher turns views into one feature vector each, or one per patch.

Open ``encoder.py`` first: the protocol, and the features of a whole split.
"""
