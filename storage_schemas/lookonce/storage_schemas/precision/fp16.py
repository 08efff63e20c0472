"""Half precision: relative error about 2e-4, two bytes a value."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lookonce.storage_schemas.precision.base import DecodePlan, Parameters, Precision


class Fp16(Precision):
    """IEEE binary16, no calibration."""

    name: ClassVar[str] = "fp16"
    dtype: ClassVar[str] = "float16"

    def encode(self, values: NDArray[np.float32], parameters: Parameters) -> NDArray[Any]:
        """Round to the nearest binary16; LayerNormed values (at most sqrt(channels)) never overflow."""
        return values.astype(np.float16)

    def decode(self, stored: NDArray[Any], parameters: Parameters) -> NDArray[np.float32]:
        """Widen, exactly."""
        return stored.astype(np.float32)

    def plan(self, parameters: Parameters) -> DecodePlan:
        """The element's own value."""
        return DecodePlan(levels=None, scale=None, offset=None)
