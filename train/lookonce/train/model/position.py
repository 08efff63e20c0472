"""Fixed two-dimensional sine-cosine position embedding of the student (as in MAE and MaskAlign)."""

from __future__ import annotations

import torch
from torch import Tensor

from lookonce.shared.errors import UsageError


def sincos_position_embedding(dim: int, grid: int, cls_token: bool = True) -> Tensor:
    """Position embedding of a square patch grid: half the channels encode the column, half the row.

    Each half is ``[sin(p w_0) .. sin(p w_m), cos(p w_0) .. cos(p w_m)]`` with ``w_k = 10000 ** (-k / (dim / 4))``.

    Args:
        dim: channels, a multiple of 4.
        grid: patches along one side of the view, at least 1; patches are numbered row by row.
        cls_token: whether the first row is one of zeros for the CLS token.

    Returns:
        float32, shape (grid * grid + cls_token, dim).

    Raises:
        UsageError: ``dim`` is not a positive multiple of 4, or ``grid`` is below 1.

    >>> sincos_position_embedding(8, 2).shape
    torch.Size([5, 8])
    """
    if dim < 4 or dim % 4:
        raise UsageError(f"sine-cosine position embedding: the width must be a multiple of 4, found {dim}")
    if grid < 1:
        raise UsageError(f"sine-cosine position embedding: the grid must be at least 1, found {grid}")
    steps = torch.arange(grid, dtype=torch.float64)
    columns = _axis_embedding(dim // 2, steps.repeat(grid))
    rows = _axis_embedding(dim // 2, steps.repeat_interleave(grid))
    patches = torch.cat([columns, rows], dim=1)
    prefix = torch.zeros(int(cls_token), dim, dtype=torch.float64)
    return torch.cat([prefix, patches]).to(torch.float32)


def _axis_embedding(dim: int, positions: Tensor) -> Tensor:
    """Sines, then cosines, of one coordinate: shape (positions, dim), float64."""
    frequencies = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = torch.outer(positions, frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
