"""Precisions that store each value, or a few neighbouring channels, as one element; with their numpy reference.

Such a precision turns its calibrated parameters into a ``QuantisationPlan``. Devices compute the same from the same
plan (``extract/pipeline/target_encoder.py``, ``train/data/target_decoder.py``), so another one needs no device code.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from lookonce.storage_schemas.precision.base import Float32, Parameters, Precision, StoredArray, TargetShape
from lookonce.storage_schemas.precision.codes import count_exceeded, count_outside, pack, unpack

_FLOATS: Mapping[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
}


@dataclass(frozen=True, kw_only=True)
class QuantisationPlan:
    """How values become codes and codes become values.

    If ``float_dtype`` is set, the stored bits are floats of that type. Otherwise a code ``q`` of ``bits`` bits means
    ``level(q) * scale + offset`` of its (layer, channel), with ``level(q)`` either ``q`` itself or ``levels[q]``.
    Codes of less than a byte are packed along channels, the first channel in the lowest bits.
    """

    bits: int
    """Bits per value: 16, 8, 4 or 2."""
    float_dtype: str | None = None
    """``float16``, ``bfloat16`` or ``float8_e4m3fn``."""
    scale: NDArray[np.float32] | None = None
    """float32 (layer, channel)."""
    offset: NDArray[np.float32] | None = None
    """float32 (layer, channel)."""
    levels: NDArray[np.float32] | None = None
    """float32 (2**bits,), ascending; None if a code is its own level."""

    @property
    def affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scale and offset.

        Raises:
            ValueError: the plan has none, because its codes are floats.
        """
        if self.scale is None or self.offset is None:
            raise ValueError("this plan has no affine map")
        return self.scale, self.offset

    def for_layers(self, layers: Sequence[int]) -> QuantisationPlan:
        """The plan for some positions of the layer axis, in that order. All layers share the table of levels."""
        if self.scale is None or self.offset is None:
            return self
        return replace(self, scale=self.scale[list(layers)], offset=self.offset[list(layers)])

    @property
    def limits(self) -> tuple[float, float]:
        """Least and greatest normalised value that does not saturate: half a step outside the outermost levels."""
        levels = np.arange(2**self.bits, dtype=np.float32) if self.levels is None else self.levels
        low, high = levels[0] - (levels[1] - levels[0]) / 2, levels[-1] + (levels[-1] - levels[-2]) / 2
        return float(low), float(high)

    @property
    def thresholds(self) -> NDArray[np.float32]:
        """Midpoints between neighbouring levels, float32 (2**bits - 1,).

        Raises:
            ValueError: the plan has no table of levels.
        """
        if self.levels is None:
            raise ValueError("this plan has no table of levels")
        midpoints: NDArray[np.float32] = (self.levels[1:] + self.levels[:-1]) * np.float32(0.5)
        return midpoints


class ElementPrecision(Precision):
    """A precision that stores each value, or a few neighbouring channels, as one element.

    Values are LayerNormed teacher features, float32, shape (..., layer, channel).
    """

    bits: ClassVar[int]
    dtype: ClassVar[str]
    """Numpy dtype name of the stored elements."""

    @property
    def bits_per_value(self) -> float:
        """``bits``."""
        return self.bits

    def arrays(self, shape: TargetShape) -> tuple[StoredArray, ...]:
        """One array of elements."""
        return (
            StoredArray(
                name="targets",
                dtype=self.dtype,
                shape=(shape.patches + 1, shape.layers, self.stored_channels(shape.channels)),
                dimensions=("token", "layer", "channel"),
                tokens="all",
            ),
        )

    def encode_views(self, targets: Float32, parameters: Parameters) -> dict[str, NDArray[Any]]:
        """``encode``."""
        return {"targets": self.encode(targets, parameters)}

    def decode_views(
        self,
        stored: Mapping[str, NDArray[Any]],
        parameters: Parameters,
        shape: TargetShape,
        tokens: NDArray[np.int64] | None = None,
    ) -> Float32:
        """``decode``; tokens do not depend on each other."""
        return self.decode(stored["targets"], parameters, channels=shape.channels)

    def outside_share(self, targets: Float32, parameters: Parameters) -> float:
        """``saturated_share``."""
        return self.saturated_share(targets, parameters)

    @property
    def bytes_per_value(self) -> float:
        """Stored bytes per channel."""
        return self.bits / 8

    @property
    def values_per_element(self) -> int:
        """Channels per stored element."""
        return max(1, 8 // self.bits)

    def stored_channels(self, channels: int) -> int:
        """Length of the stored last axis for ``channels`` channels. Packed precisions round up."""
        return -(-channels // self.values_per_element)

    @abc.abstractmethod
    def calibrate(self, values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Compute parameters from sample values.

        Args:
            values: float32 (token, layer, channel), the tokens of the calibration views.

        Raises:
            ValueError: the precision is calibrated and there are no values.
        """

    @abc.abstractmethod
    def plan(self, parameters: Parameters) -> QuantisationPlan:
        """The plan that encoding and decoding follow."""

    def parameter_problem(self, parameters: Parameters, shape: TargetShape) -> str | None:
        """Why the precision cannot use ``parameters``, or None if it can.

        Args:
            parameters: as ``calibrate`` returns them.
            shape: of each view; only layers and channels count.
        """
        try:
            plan = self.plan(parameters)
        except KeyError as missing:
            return f"precision {self.name} needs the parameter {missing.args[0]!r}, found {sorted(parameters)}"
        wanted = [
            ("scale", plan.scale, (shape.layers, shape.channels)),
            ("offset", plan.offset, (shape.layers, shape.channels)),
            ("levels", plan.levels, (2**plan.bits,)),
        ]
        for name, values, expected in wanted:
            if values is not None and values.shape != expected:
                return f"{name!r} has shape {list(values.shape)}, expected {list(expected)}"
        return None

    def encode(self, values: NDArray[np.float32], parameters: Parameters) -> NDArray[Any]:
        """Encode float32 (..., layer, channel) to elements of ``dtype`` (..., layer, stored channel).

        Values outside the representable range saturate.
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
        """Decode elements (..., layer, stored channel) to float32 (..., layer, channel).

        Args:
            stored: as ``encode`` returns them.
            parameters: parameters of all layers of the cache.
            channels: channels of a value; needed only if the packing rounded up.
            layers: positions on the layer axis of the cache that ``stored`` contains; None for all.
        """
        plan = self.plan(parameters) if layers is None else self.plan(parameters).for_layers(layers)
        if plan.float_dtype is not None:
            return stored.view(_FLOATS[plan.float_dtype]).astype(np.float32)
        codes = unpack(stored, plan.bits)[..., :channels]
        levels: NDArray[np.float32] = codes.astype(np.float32) if plan.levels is None else plan.levels[codes]
        scale, offset = plan.affine
        decoded: NDArray[np.float32] = levels * scale + offset
        return decoded

    def saturated_share(self, values: NDArray[np.float32], parameters: Parameters) -> float:
        """Share (0..1) of values that lie more than half a step outside the representable range."""
        plan = self.plan(parameters)
        if plan.float_dtype is not None:
            return 0.0  # LayerNormed values are at most sqrt(channels), far inside every float type here
        scale, offset = plan.affine
        normalised = (values - offset) / scale
        return count_outside(normalised, *plan.limits) / max(1, normalised.size)


def rounded(values: NDArray[Any]) -> NDArray[np.float32]:
    """Round to 10 mantissa bits, so that rounding noise between machines rarely changes a calibration."""
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
    layers = range(
        values.shape[1]
    )  # one at a time: float64 copies of all layers would set the peak memory of an extraction
    mean = np.stack([values[:, layer].mean(axis=0, dtype=np.float64) for layer in layers])
    deviation = np.stack([values[:, layer].std(axis=0, dtype=np.float64) for layer in layers])
    return mean, np.maximum(deviation, 1e-6)
