"""Eight bits, one static affine map per (layer, channel): relative error about 0.01, one byte a value.

One scale per token instead would be ruined by the few outlier channels that CLIP and DINO features have (error 0.05).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lookonce.storage_schemas.precision.base import DecodePlan, Parameters, Precision

RANGES = (5.0, 6.0, 8.0, 12.0, 16.0)
"""Candidate half-ranges in standard deviations; five is the least, as fewer clips tokens the calibration never saw."""

LEVELS = 256


class Int8(Precision):
    """Unsigned byte ``e`` stands for ``offset + e * scale`` of its (layer, channel)."""

    name: ClassVar[str] = "int8"
    dtype: ClassVar[str] = "uint8"
    calibrated: ClassVar[bool] = True

    def calibrate(self, values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Mean plus or minus k standard deviations, k chosen per channel for the least squared error.

        Raises:
            ValueError: there are no values.
        """
        if values.shape[0] == 0:
            raise ValueError("calibration needs at least one token")
        mean = values.mean(axis=0, dtype=np.float64)
        deviation = np.maximum(values.std(axis=0, dtype=np.float64), 1e-6)
        best_error = np.full(mean.shape, np.inf)
        scale, offset = np.empty_like(mean), np.empty_like(mean)
        for half_range in RANGES:
            low = mean - half_range * deviation
            step = 2 * half_range * deviation / (LEVELS - 1)
            restored = _quantise(values, low, step) * step + low
            error = np.square(restored - values).mean(axis=0, dtype=np.float64)
            better = error < best_error
            best_error[better], scale[better], offset[better] = error[better], step[better], low[better]
        return {"scale": _rounded(scale), "offset": _rounded(offset)}

    def encode(self, values: NDArray[np.float32], parameters: Parameters) -> NDArray[Any]:
        """Nearest of the 256 levels; values outside saturate."""
        element: NDArray[Any] = _quantise(values, parameters["offset"], parameters["scale"]).astype(np.uint8)
        return element

    def decode(self, stored: NDArray[Any], parameters: Parameters) -> NDArray[np.float32]:
        """One multiply-add a value."""
        restored: NDArray[np.float32] = stored.astype(np.float32) * parameters["scale"] + parameters["offset"]
        return restored

    def plan(self, parameters: Parameters) -> DecodePlan:
        """The element's own value, scaled and shifted."""
        return DecodePlan(levels=None, scale=parameters["scale"], offset=parameters["offset"])

    def saturated_share(self, values: NDArray[np.float32], parameters: Parameters) -> float:
        """Share of values more than half a step outside the range."""
        element = (values - parameters["offset"]) / parameters["scale"]
        return float(np.mean((element < -0.5) | (element > LEVELS - 0.5)))


def _quantise(values: NDArray[Any], low: NDArray[Any], step: NDArray[Any]) -> NDArray[Any]:
    level: NDArray[Any] = np.clip(np.rint((values - low) / step), 0, LEVELS - 1)
    return level


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Keep 10 mantissa bits, so that rounding noise between machines rarely changes the calibration."""
    mantissa, exponent = np.frexp(values)
    rounded: NDArray[np.float64] = np.ldexp(np.rint(mantissa * 1024) / 1024, exponent)
    return rounded.astype(np.float32)
