"""What every precision declares, and the numpy reference of encoding and decoding.

A precision is data: a ``QuantisationPlan`` made from its calibrated parameters. Devices compute the same from the same
plan (``extract.target_encoder``, ``train.decoding``), so that a new precision is one file with no device code.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from lookonce.storage_schemas.precision.codes import count_exceeded, count_outside, pack, unpack

Parameters = Mapping[str, NDArray[np.float32]]

_FLOATS: Mapping[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
}


@dataclass(frozen=True, kw_only=True)
class QuantisationPlan:
    """How values become codes and codes become values.

    Either ``float_dtype`` is set and the stored bits are floats of that type, or a code ``q`` of ``bits`` bits stands
    for ``level(q) * scale + offset`` of its (layer, channel), where ``level(q)`` is ``q`` itself or ``levels[q]``.
    Codes of less than a byte are packed along channels, the first channel in the lowest bits.
    """

    bits: int
    """Bits a value: 16, 8, 4 or 2."""
    float_dtype: str | None = None
    """``float16``, ``bfloat16`` or ``float8_e4m3fn``."""
    scale: NDArray[np.float32] | None = None
    """float32 (layer, channel)."""
    offset: NDArray[np.float32] | None = None
    """float32 (layer, channel)."""
    levels: NDArray[np.float32] | None = None
    """float32 (2**bits,), ascending; None when a code is its own level."""

    @property
    def affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scale and offset.

        Raises:
            ValueError: the plan has none, as its codes are floats.
        """
        if self.scale is None or self.offset is None:
            raise ValueError("this plan has no affine map")
        return self.scale, self.offset

    def of_layers(self, layers: Sequence[int]) -> QuantisationPlan:
        """The plan for some positions of the layer axis, in that order; the table of levels serves all layers."""
        if self.scale is None or self.offset is None:
            return self
        return replace(self, scale=self.scale[list(layers)], offset=self.offset[list(layers)])

    @property
    def limits(self) -> tuple[float, float]:
        """Normalised values beyond which a value saturates: half of the last step outside the outermost levels."""
        levels = np.arange(2**self.bits, dtype=np.float32) if self.levels is None else self.levels
        low, high = levels[0] - (levels[1] - levels[0]) / 2, levels[-1] + (levels[-1] - levels[-2]) / 2
        return float(low), float(high)

    @property
    def thresholds(self) -> NDArray[np.float32]:
        """Midpoints between neighbouring levels, float32 (2**bits - 1,): where the nearest level changes.

        Raises:
            ValueError: the plan has no table of levels.
        """
        if self.levels is None:
            raise ValueError("this plan has no table of levels")
        midpoints: NDArray[np.float32] = (self.levels[1:] + self.levels[:-1]) * np.float32(0.5)
        return midpoints


class Precision(abc.ABC):
    """One way to store target values. Stateless; what is calibrated travels in ``Parameters``.

    Values are LayerNormed teacher features, float32, shape (..., layer, channel).
    """

    name: ClassVar[str]
    bits: ClassVar[int]
    dtype: ClassVar[str]
    """Numpy dtype name of the stored elements."""
    calibrated: ClassVar[bool]
    """Whether ``calibrate`` looks at values."""

    @property
    def bytes_per_value(self) -> float:
        """Bytes one channel takes."""
        return self.bits / 8

    @property
    def values_per_element(self) -> int:
        """Channels one stored element holds."""
        return max(1, 8 // self.bits)

    def stored_channels(self, channels: int) -> int:
        """Length of the stored last axis for ``channels`` channels; packed precisions round up."""
        return -(-channels // self.values_per_element)

    @abc.abstractmethod
    def calibrate(self, values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Parameters from sample values.

        Args:
            values: float32 (token, layer, channel): tokens of the calibration views.

        Raises:
            ValueError: the precision is calibrated and there are no values.
        """

    @abc.abstractmethod
    def plan(self, parameters: Parameters) -> QuantisationPlan:
        """What encoding and decoding do."""

    def misfit(self, parameters: Parameters, shape: tuple[int, int]) -> str | None:
        """What keeps parameters from being used, or None.

        Args:
            parameters: as ``calibrate`` gives them.
            shape: (layers, channels) of the values.
        """
        try:
            plan = self.plan(parameters)
        except KeyError as missing:
            return f"precision {self.name} needs {missing.args[0]!r}, which is not there"
        wanted = [
            ("scale", plan.scale, shape),
            ("offset", plan.offset, shape),
            ("levels", plan.levels, (2**plan.bits,)),
        ]
        for name, values, expected in wanted:
            if values is not None and values.shape != expected:
                return f"{name!r} has shape {list(values.shape)}, expected {list(expected)}"
        return None

    def encode(self, values: NDArray[np.float32], parameters: Parameters) -> NDArray[Any]:
        """Values float32 (..., layer, channel) to elements of ``dtype`` (..., layer, stored channel).

        Values that cannot be represented saturate at the nearest one that can.
        """
        plan = self.plan(parameters)
        if plan.float_dtype is not None:
            return values.astype(_FLOATS[plan.float_dtype]).view(self.dtype)
        scale, offset = plan.affine
        normalised = (values - offset) / scale
        if plan.levels is None:
            element: NDArray[np.uint8] = np.clip(np.rint(normalised), 0, 2**plan.bits - 1).astype(np.uint8)
            return element
        return pack(count_exceeded(normalised, plan.thresholds), plan.bits)

    def decode(
        self,
        stored: NDArray[Any],
        parameters: Parameters,
        channels: int | None = None,
        layers: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """Elements (..., layer, stored channel) back to float32 (..., layer, channel).

        Args:
            stored: as ``encode`` gives them.
            parameters: of all layers of the cache.
            channels: channels of a value; needed only when the packing rounded up.
            layers: positions on the layer axis that ``stored`` holds; None for all.
        """
        plan = self.plan(parameters) if layers is None else self.plan(parameters).of_layers(layers)
        if plan.float_dtype is not None:
            return stored.view(_FLOATS[plan.float_dtype]).astype(np.float32)
        codes = unpack(stored, plan.bits)[..., :channels]
        levels: NDArray[np.float32] = codes.astype(np.float32) if plan.levels is None else plan.levels[codes]
        scale, offset = plan.affine
        decoded: NDArray[np.float32] = levels * scale + offset
        return decoded

    def saturated_share(self, values: NDArray[np.float32], parameters: Parameters) -> float:
        """Share (0..1) of values further outside the representable range than half of the last step."""
        plan = self.plan(parameters)
        if plan.float_dtype is not None:
            return 0.0  # LayerNormed values are at most sqrt(channels): far inside every float type here
        scale, offset = plan.affine
        normalised = (values - offset) / scale
        return count_outside(normalised, *plan.limits) / max(1, normalised.size)


def rounded(values: NDArray[Any]) -> NDArray[np.float32]:
    """Keep 10 mantissa bits, so that rounding noise between machines rarely changes a calibration."""
    mantissa, exponent = np.frexp(np.asarray(values, dtype=np.float64))
    nearest: NDArray[np.float64] = np.ldexp(np.rint(mantissa * 1024) / 1024, exponent)
    return nearest.astype(np.float32)


def channel_moments(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (never 0) of each (layer, channel), float64.

    Raises:
        ValueError: there are no values.
    """
    if values.shape[0] == 0:
        raise ValueError("calibration needs at least one token")
    layers = range(values.shape[1])  # one at a time: float64 copies of all would be the most memory of an extraction
    mean = np.stack([values[:, layer].mean(axis=0, dtype=np.float64) for layer in layers])
    deviation = np.stack([values[:, layer].std(axis=0, dtype=np.float64) for layer in layers])
    return mean, np.maximum(deviation, 1e-6)
