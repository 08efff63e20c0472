"""Splits a view into the square patches that a vision transformer embeds, and joins them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.errors import UsageError


def patchify(pixels: NDArray[np.uint8], patch_size: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Split images into patches: patches row by row, and (row, column, channel) inside a patch.

    Args:
        pixels: uint8, shape (..., height, width, 3); both sides are multiples of ``patch_size``.
        patch_size: side of a patch in pixels.
        out: C-contiguous array for the result, with its shape; None to allocate it.

    Returns:
        uint8, shape (..., patches, patch_size * patch_size * 3), C order.

    Raises:
        UsageError: a side is not a multiple of ``patch_size``, the last axis is not 3, or ``out`` does not fit.

    >>> patchify(np.zeros((224, 224, 3), np.uint8), 16).shape
    (196, 768)
    """
    if pixels.ndim < 3 or pixels.shape[-1] != 3:
        raise UsageError(f"patchify: expected pixels of shape (..., height, width, 3), found {pixels.shape}")
    *batch, height, width, _ = pixels.shape
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise UsageError(
            f"patchify: expected sides that are multiples of the patch size {patch_size}, found {height} x {width}; "
            "change the view size or the patch size"
        )
    rows, columns = height // patch_size, width // patch_size
    shape = (*batch, rows * columns, patch_size * patch_size * 3)
    result = np.empty(shape, dtype=np.uint8) if out is None else out
    if result.shape != shape or result.dtype != np.uint8 or not result.flags.c_contiguous:
        raise UsageError(f"patchify: expected out of C-contiguous uint8 {shape}, found {result.dtype} {result.shape}")
    cut = pixels.reshape(*batch, rows, patch_size, columns, patch_size * 3).swapaxes(-3, -2)
    result.reshape(*batch, rows, columns, patch_size, patch_size * 3)[...] = cut
    return result


def unpatchify(patches: NDArray[np.uint8], patch_size: int) -> NDArray[np.uint8]:
    """Join the patches of square images: the inverse of ``patchify``.

    Args:
        patches: uint8, shape (..., patches, patch_size * patch_size * 3); a square number of patches.
        patch_size: side of a patch in pixels.

    Returns:
        uint8, shape (..., side, side, 3), C order, side = sqrt(patches) * patch_size.

    Raises:
        UsageError: the number of patches is not a square, or the patches have another size.
    """
    expected = patch_size * patch_size * 3
    if patch_size < 1 or patches.ndim < 2 or patches.shape[-1] != expected:
        raise UsageError(
            f"unpatchify: expected patches of shape (..., patches, {expected}), which is patch size "
            f"{patch_size} squared times 3, found {patches.shape}"
        )
    *batch, count, _ = patches.shape
    grid = math.isqrt(count)
    if grid * grid != count or count == 0:
        raise UsageError(f"unpatchify: expected a square number of patches, found {count}")
    joined = patches.reshape(*batch, grid, grid, patch_size, patch_size, 3).swapaxes(-4, -3)
    return np.ascontiguousarray(joined).reshape(*batch, grid * patch_size, grid * patch_size, 3)
