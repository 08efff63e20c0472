"""Bits per component: reverse water-filling by greedy steps of one bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lookonce.storage_schemas.precision.klt.quantisers import gaussian_errors


def allocate_bits(variances: NDArray[np.float64], budget: int, *, most: int) -> NDArray[np.int64]:
    """Give each component the bits that reduce the total squared error most.

    One more bit for component i reduces the error by ``variances[i] * (D(b) - D(b + 1))``, D being the error of a
    quantiser of a unit Gaussian. The steps shrink with b, so the best steps in descending order are the best choice.

    Args:
        variances: variance of each component, float64 (n,), positive.
        budget: bits for all of them; never exceeded.
        most: most bits of a component, at most ``MAX_BITS``.

    Returns:
        Bits of each component, int64 (n,).
    """
    steps = -np.diff(gaussian_errors()[: most + 1])
    best = np.argsort(-(variances[:, None] * steps), axis=None, kind="stable")[: max(0, budget)]
    return np.bincount(best // most, minlength=len(variances)).astype(np.int64)


def expected_error(variances: NDArray[np.float64], bits: NDArray[np.int64]) -> float:
    """Squared error that an allocation leaves, if components are Gaussian."""
    return float((variances * gaussian_errors()[bits]).sum())
