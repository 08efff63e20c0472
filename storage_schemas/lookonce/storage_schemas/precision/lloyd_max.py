"""Packed precisions (int4, int2): one affine map per channel and one table of levels with the least squared error.

Relative errors: int4 (16 levels, half a byte per value) about 0.1; int2 (4 levels, a quarter of a byte) about 0.35,
for experiments. One table of levels serves all channels, because normalised channels of teacher features have nearly
the same distribution. Lloyd's algorithm (Lloyd 1982, Max 1960) finds the levels. One scale per group of a token's
channels would suffer from outlier channels.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lookonce.storage_schemas.precision.base import Parameters
from lookonce.storage_schemas.precision.element import (
    ElementPrecision,
    QuantisationPlan,
    channel_moments,
    rounded,
)

MAX_VALUES = 1 << 20
"""Approximate number of calibration values that the table is fitted to, taken evenly from all channels."""

ROUNDS = 60
"""Rounds of Lloyd's algorithm; after 40 the error changes by less than 1e-4 of itself."""


class LloydMaxPrecision(ElementPrecision):
    """Base of the packed precisions; subclasses set ``bits``, the bits per code."""

    dtype: ClassVar[str] = "uint8"
    calibrated: ClassVar[bool] = True

    def calibrate(self, values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Mean and standard deviation per channel, and the table of levels.

        Raises:
            ValueError: there are no values.
        """
        mean, deviation = channel_moments(values)
        offset, scale = rounded(mean), rounded(deviation)
        flat, stride = values.reshape(-1), max(1, values.size // MAX_VALUES)
        while math.gcd(stride, offset.size) > 1:  # otherwise only some channels would be sampled
            stride += 1
        taken = np.arange(0, len(flat), stride)
        channel = taken % offset.size
        sample = np.sort(((flat[taken] - offset.flat[channel]) / scale.flat[channel]).astype(np.float64))
        return {"scale": scale, "offset": offset, "levels": rounded(lloyd_max_levels(sample, 2**self.bits))}

    def plan(self, parameters: Parameters) -> QuantisationPlan:
        """Decode with a table look-up and one multiply-add per value."""
        return QuantisationPlan(
            bits=self.bits,
            scale=parameters["scale"],
            offset=parameters["offset"],
            levels=parameters["levels"],
        )


def lloyd_max_levels(ordered: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Levels of least squared error for sorted values: assign values to the nearest level, then average, repeatedly."""
    levels = np.array([NormalDist().inv_cdf((place + 0.5) / count) for place in range(count)])
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(ROUNDS):
        borders = np.searchsorted(ordered, (levels[1:] + levels[:-1]) / 2)
        edges = np.concatenate([[0], borders, [len(ordered)]])
        sizes = np.diff(edges)
        filled = sizes > 0
        levels[filled] = np.diff(sums[edges])[filled] / sizes[filled]
    return np.sort(levels)


class Int4(LloydMaxPrecision):
    """16 levels, two values per byte."""

    name: ClassVar[str] = "int4"
    bits: ClassVar[int] = 4


class Int2(LloydMaxPrecision):
    """4 levels, four values per byte."""

    name: ClassVar[str] = "int2"
    bits: ClassVar[int] = 2
