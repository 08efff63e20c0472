"""Files of weights: what kind a file is, which of its tensors are wanted, and what it says of its pixels.

Open ``file.py`` first: a file is opened without running anything in it (``checkpoint.py``), named where it holds no
weights (``kinds.py``), and the weights of an architecture are taken out of it (``selection.py``). Both stages use this.
"""
