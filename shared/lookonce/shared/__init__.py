"""What both stages stand on: errors, digests, files written by rename, counter-based randomness, views.

Nothing in this package imports torch, ray, timm or open_clip.
"""
