"""Scalar quantisers of a unit Gaussian for 1 to 12 bits, and how much squared error each leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

MAX_BITS = 12
"""Most bits of an index; only a view's lowest frequencies take more than eight."""

ROUNDS = 100
"""Rounds of Lloyd's algorithm. Tables of up to 5 bits have converged then; finer ones start close to the optimum."""


@cache
def gaussian_levels(bits: int) -> NDArray[np.float32]:
    """Levels of least squared error for a unit Gaussian (Lloyd 1982, Max 1960), float32 (2**bits,), ascending.

    The first guess spaces levels by the cube root of the density (Panter and Dite 1951).
    """
    count = 2**bits
    levels = np.array([math.sqrt(3) * NormalDist().inv_cdf((place + 0.5) / count) for place in range(count)])
    for _ in range(ROUNDS):
        mass, moment = _cells(levels)
        levels = moment / mass
    levels = (levels - levels[::-1]) / 2  # symmetric to the last bit
    found: NDArray[np.float32] = levels.astype(np.float32)
    return found


@cache
def gaussian_errors() -> NDArray[np.float64]:
    """Mean squared error of a unit Gaussian for 0 to ``MAX_BITS`` bits, float64 (1 + MAX_BITS,); 1 for 0 bits.

    >>> [round(float(error), 4) for error in gaussian_errors()[:5]]
    [1.0, 0.3634, 0.1175, 0.0345, 0.0095]
    """
    errors = [1.0]
    for bits in range(1, MAX_BITS + 1):
        levels = gaussian_levels(bits).astype(np.float64)
        mass, moment = _cells(levels)
        errors.append(float(1 - 2 * (moment * levels).sum() + (mass * levels**2).sum()))
    return np.array(errors)


def concatenated_levels(tables: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Tables for 1, 2, ... bits one after the other; the table of b bits starts at ``2**b - 2``."""
    return np.concatenate(list(tables)).astype(np.float32)


def table_start(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the table of so many bits starts in ``concatenated_levels``; 0 for 0 bits.

    >>> table_start(np.array([0, 1, 2, 3])).tolist()
    [0, 0, 2, 6]
    """
    start: NDArray[np.int64] = np.maximum(np.left_shift(1, bits) - 2, 0)
    return start


def _cells(levels: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probability and first moment of a unit Gaussian in the cell of each level."""
    borders = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    density = np.exp(-(borders**2) / 2) / math.sqrt(2 * math.pi)
    upper = np.array([math.erfc(border / math.sqrt(2)) / 2 for border in np.abs(borders)])  # tails: no cancellation
    below = np.where(borders <= 0, upper, 1 - upper)
    mass = np.where(borders[:-1] >= 0, upper[:-1] - upper[1:], np.diff(below))
    return np.maximum(mass, 1e-300), density[:-1] - density[1:]
