"""Files of weights: what kind a file is, which of its tensors are wanted, and what it says of its pixels.

Open ``file.py`` first: ``open_weights`` reads a file and ``WeightsFile.fitting`` takes the weights of an architecture
out of it. Teachers, students and evaluations all read their files here.
"""
