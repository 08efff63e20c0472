"""What every precision declares; numpy here is the reference, devices compute the same from ``DecodePlan``."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Parameters = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class DecodePlan:
    """How a device turns stored elements into floats: ``level(element) * scale + offset``.

    A reader on any device needs nothing else. ``level(element)`` is the element itself (``levels is None``) or a look
    up: element ``e`` holds ``levels.shape[1]`` values, the first one in the lowest bits.
    """

    levels: NDArray[np.float32] | None
    """float32 (256, values an element), or None: the element's own value."""
    scale: NDArray[np.float32] | None
    """float32 (layer, channel), or None: no affine step."""
    offset: NDArray[np.float32] | None
    """float32 (layer, channel), or None."""


class Precision(abc.ABC):
    """One way to store target values. Stateless; calibration travels in ``Parameters``.

    Values are LayerNormed teacher features, float32, shape (..., layer, channel).
    """

    name: ClassVar[str]
    dtype: ClassVar[str]
    """Numpy dtype name of the stored elements."""
    values_per_element: ClassVar[int] = 1
    """How many channels one stored element holds."""
    calibrated: ClassVar[bool] = False
    """Whether ``calibrate`` looks at data."""

    @property
    def bytes_per_value(self) -> float:
        """Bytes one channel takes."""
        return np.dtype(self.dtype).itemsize / self.values_per_element

    def stored_channels(self, channels: int) -> int:
        """Length of the stored last axis for ``channels`` channels (rounded up when packed)."""
        return -(-channels // self.values_per_element)

    def calibrate(self, values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Parameters from sample values.

        Args:
            values: float32 (token, layer, channel): tokens of the calibration views.
        """
        return {}

    @abc.abstractmethod
    def encode(self, values: NDArray[np.float32], parameters: Parameters) -> NDArray[Any]:
        """Values float32 (..., layer, channel) to elements ``dtype`` (..., layer, stored channel)."""

    @abc.abstractmethod
    def decode(self, stored: NDArray[Any], parameters: Parameters) -> NDArray[np.float32]:
        """Elements (..., layer, stored channel) back to float32 (..., layer, channel)."""

    @abc.abstractmethod
    def plan(self, parameters: Parameters) -> DecodePlan:
        """The decode as a device computes it."""

    def saturated_share(self, values: NDArray[np.float32], parameters: Parameters) -> float:
        """Share (0..1) of values outside what the precision can represent."""
        return 0.0
