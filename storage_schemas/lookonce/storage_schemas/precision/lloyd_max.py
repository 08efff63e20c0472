"""Packed precisions (int4, int2): one affine map per channel and one table of levels with the least squared error.

Relative errors: int4 (16 levels, half a byte per value) about 0.1; int2 (4 levels, a quarter of a byte) about 0.35,
for experiments. Normalised channels of teacher features are close enough to one distribution for one table; the levels
are found by Lloyd's algorithm (Lloyd 1982, Max 1960). A group scale inside a token instead would be ruined by outlier
channels.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lookonce.storage_schemas.precision.base import (
    Parameters,
    Precision,
    QuantisationPlan,
    channel_moments,
    rounded,
)

MAX_VALUES = 1 << 20
"""Values that the table is fitted to, about: evenly taken from the calibration's, of all channels alike."""

ROUNDS = 60
"""Rounds of Lloyd's algorithm; the error changes by less than 1e-4 of itself after 40."""


class LloydMaxPrecision(Precision):
    """Codes of ``bits`` bits, packed; subclasses name the number of bits."""

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
        while math.gcd(stride, offset.size) > 1:  # else some channels would give all values, and the others none
            stride += 1
        taken = np.arange(0, len(flat), stride)
        channel = taken % offset.size
        sample = np.sort(((flat[taken] - offset.flat[channel]) / scale.flat[channel]).astype(np.float64))
        return {"scale": scale, "offset": offset, "levels": rounded(_lloyd_max(sample, 2**self.bits))}

    def plan(self, parameters: Parameters) -> QuantisationPlan:
        """A look-up and one multiply-add a value."""
        return QuantisationPlan(
            bits=self.bits,
            scale=parameters["scale"],
            offset=parameters["offset"],
            levels=parameters["levels"],
        )


def _lloyd_max(ordered: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Levels of least squared error for sorted values: cells by nearest level, levels by cell mean, in turns."""
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
    """16 levels, two values a byte."""

    name: ClassVar[str] = "int4"
    bits: ClassVar[int] = 4


class Int2(LloydMaxPrecision):
    """4 levels, four values a byte."""

    name: ClassVar[str] = "int2"
    bits: ClassVar[int] = 2
