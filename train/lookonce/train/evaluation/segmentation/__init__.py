"""Semantic segmentation from frozen patch features: images and masks flow through windows to scores and mean IoU.

Open ``segment.py`` first. ``masked_images.py`` pairs images with their masks (``class_mask.py`` reads one) and cuts
them into windows, ``heads.py`` gives scores of patches, and ``scores.py`` makes them classes of pixels.
"""
