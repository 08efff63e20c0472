"""Files of weights, and the device to load them on: the parts of both stages that need torch.

Open ``file.py`` first: it opens a file without running code from it (``checkpoint.py``), reports what a file without
weights is (``kinds.py``), and selects the weights of an architecture (``selection.py``). ``device.py`` resolves
``--device``.
"""
