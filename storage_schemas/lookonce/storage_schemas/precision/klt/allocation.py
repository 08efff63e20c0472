"""Bits per component: reverse water-filling by greedy steps of one bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lookonce.storage_schemas.precision.klt.quantisers import gaussian_errors


def allocate_bits(
    variances: NDArray[np.float64], count: NDArray[np.int64], budget: int, most: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Give each component the bits that reduce the total squared error most.

    One more bit for component i reduces the error by ``variances[i] * (D(b) - D(b + 1))`` per bit, D being the error of
    a quantiser of a unit Gaussian. The steps shrink with b, so the best steps in descending order are the best choice.

    Args:
        variances: variance of each component, float64 (n,).
        count: how many values of a view belong to the component, int64 (n,); each of them takes its bits.
        budget: bits per view; never exceeded.
        most: most bits a value of the component may take, int64 (n,), at most ``MAX_BITS``.

    Returns:
        Bits of each component, int64 (n,).
    """
    steps = -np.diff(gaussian_errors())
    gain = variances[:, None] * steps
    gain[np.arange(len(steps)) >= most[:, None]] = -1  # not allowed
    component, bit = np.unravel_index(np.argsort(-gain, axis=None, kind="stable"), gain.shape)
    allowed = gain[component, bit] > 0
    component, bit = component[allowed], bit[allowed]
    taken = np.cumsum(count[component]) <= budget
    return np.bincount(component[taken], minlength=len(variances)).astype(np.int64)


def expected_error(variances: NDArray[np.float64], count: NDArray[np.int64], bits: NDArray[np.int64]) -> float:
    """Squared error per view that an allocation leaves, if components are Gaussian."""
    return float((variances * count * gaussian_errors()[bits]).sum())
