"""Eight bits, one static affine map per (layer, channel): relative error about 0.01, one byte per value.

With one scale per token instead, the few outlier channels of CLIP and DINO features raise the error to 0.05.
"""

from __future__ import annotations

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

RANGES = (5.0, 6.0, 8.0, 12.0, 16.0)
"""Candidate half-ranges in standard deviations. Fewer than five would clip tokens outside the calibration views."""

LAST_CODE = 255


class Int8(ElementPrecision):
    """An unsigned byte ``q`` means ``offset + q * scale`` of its (layer, channel)."""

    name: ClassVar[str] = "int8"
    bits: ClassVar[int] = 8
    dtype: ClassVar[str] = "uint8"
    calibrated: ClassVar[bool] = True

    def calibrate(self, values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Cover mean plus or minus k standard deviations; k is chosen per channel for the least squared error.

        Raises:
            ValueError: there are no values.
        """
        mean, deviation = channel_moments(values)
        fitted = [_least_error(values[:, layer], mean[layer], deviation[layer]) for layer in range(len(mean))]
        scale, offset = (np.stack(parts) for parts in zip(*fitted, strict=True))
        return {"scale": rounded(scale), "offset": rounded(offset)}

    def plan(self, parameters: Parameters) -> QuantisationPlan:
        """Decode with one multiply-add per value."""
        return QuantisationPlan(bits=self.bits, scale=parameters["scale"], offset=parameters["offset"])


def _least_error(
    values: NDArray[np.float32], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and offset of each channel of one layer, from its values (token, channel)."""
    best_error = np.full(mean.shape, np.inf)
    scale, offset = np.empty_like(mean), np.empty_like(mean)
    for half_range in RANGES:
        low = mean - half_range * deviation
        step = 2 * half_range * deviation / LAST_CODE
        restored = np.clip(np.rint((values - low) / step), 0, LAST_CODE) * step + low
        error = np.square(restored - values).mean(axis=0, dtype=np.float64)
        better = error < best_error
        best_error[better], scale[better], offset[better] = error[better], step[better], low[better]
    return scale, offset
