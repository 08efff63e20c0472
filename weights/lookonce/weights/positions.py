"""Interpolates position embeddings to another grid of patches."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def interpolate_positions(embedding: Tensor, prefix: int, patch_count: int) -> Tensor:
    """Interpolate a position embedding to another square grid: bicubic, ``align_corners=False``, no antialiasing.

    Args:
        embedding: (..., prefix + patches, channels) float32.
        prefix: number of leading rows that stay unchanged.
        patch_count: number of patches of the new square grid.

    Returns:
        (..., prefix + patch_count, channels); the input itself if it fits or its grid is not square.
    """
    have = embedding.shape[-2] - prefix if embedding.ndim >= 2 else 0
    side, wanted = math.isqrt(max(have, 0)), math.isqrt(patch_count)
    if have == patch_count or have < 1 or side * side != have or wanted * wanted != patch_count:
        return embedding
    rows = embedding.reshape(-1, embedding.shape[-1])
    grid = rows[prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(wanted, wanted), mode="bicubic", align_corners=False, antialias=False)
    patches = grid.permute(0, 2, 3, 1).reshape(patch_count, -1)
    return torch.cat([rows[:prefix], patches]).reshape(*embedding.shape[:-2], prefix + patch_count, -1)
