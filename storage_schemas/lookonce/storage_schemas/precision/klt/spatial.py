"""The coarse part of a view: its lowest spatial frequencies, which all of its tokens share."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray


@cache
def spatial_basis(patches: int, functions: int) -> NDArray[np.float32]:
    """Orthonormal functions of a patch's place: products of the lowest cosines of DCT-II on the grid of patches.

    With one function, which is constant, the coarse part is the mean over the stored patches. It needs no grid, so it
    also serves caches that store a subset of the patches.

    Args:
        patches: stored patches of a view, k; a square number unless ``functions`` is 1.
        functions: number of functions F, a square number: sqrt(F) cosines along each axis.

    Returns:
        float32 (k, F), row by row of the grid; columns are orthonormal.

    Raises:
        ValueError: the patches form no square grid, or one with fewer rows than cosines.
    """
    along = math.isqrt(functions)
    if functions == 1:
        return np.full((patches, 1), 1 / math.sqrt(patches), dtype=np.float32)
    side = math.isqrt(patches)
    if side**2 != patches or along**2 != functions or along > side:
        raise ValueError(f"{functions} spatial functions on {patches} patches: expected squares, and no more functions")
    frequency, place = np.arange(along)[:, None], np.arange(side)[None]
    cosines = np.cos(np.pi * (place + 0.5) * frequency / side) * math.sqrt(2 / side)
    cosines[0] /= math.sqrt(2)
    functions_of_place = np.einsum("ai,bj->ijab", cosines, cosines).reshape(patches, functions)
    basis: NDArray[np.float32] = functions_of_place.astype(np.float32)
    return basis
