"""Converts samples of any depth to 8-bit levels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 22
"""Number of samples that are converted at a time."""


def levels(values: NDArray[np.generic], bits: int) -> NDArray[np.uint8]:
    """Convert samples to levels from 0 to 255.

    Unsigned integers of b bits are scaled by 255 / (2^b - 1) and rounded. Signed integers of up to 8 bits are first
    shifted up by half their range. Deeper signed integers rarely use their range, so their own minimum and maximum
    become 0 and 255. Floats within [0, 1] are multiplied by 255, others within [0, 255] are rounded, and all others are
    stretched like deep signed integers.

    Args:
        values: any shape; unsigned, signed or float.
        bits: bits per sample, at most those of the type.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    if values.dtype.kind == "u":
        return _converted(values, _scale(bits))
    if values.dtype.kind == "i" and bits <= 8:
        half, scale = 1 << (bits - 1), _scale(bits)
        return _converted(values, lambda some: scale((some.astype(np.int16) + half).astype(np.uint8)))
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("its float pixels contain NaN or infinity")
    if values.dtype.kind == "f" and low >= 0 and high <= 255:
        factor = np.float64(255 if high <= 1 else 1)
        return _converted(values, lambda some: np.rint(some.astype(np.float64) * factor))
    factor = np.float64(255 / ((high - low) or 1))
    return _converted(values, lambda some: np.rint((some.astype(np.float64) - low) * factor))


def _scale(bits: int) -> Callable[[NDArray[np.generic]], NDArray[np.generic]]:
    maximum = (1 << bits) - 1
    if bits <= 16:
        table = ((np.arange(maximum + 1, dtype=np.int64) * 510 + maximum) // (2 * maximum)).astype(np.uint8)
        return lambda some: table[np.minimum(some, maximum)]
    return lambda some: np.rint(some.astype(np.float64) * (255 / maximum))


def _converted(
    values: NDArray[np.generic], convert: Callable[[NDArray[np.generic]], NDArray[np.generic]]
) -> NDArray[np.uint8]:
    flat = np.ascontiguousarray(values).reshape(-1)
    found = np.empty(flat.shape, np.uint8)
    for part in _blocks(flat.size):
        found[part] = convert(flat[part])
    return found.reshape(values.shape)


def _blocks(size: int) -> Iterator[slice]:
    for start in range(0, size, _BLOCK):
        yield slice(start, start + _BLOCK)
