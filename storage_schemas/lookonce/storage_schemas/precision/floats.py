"""What the float precisions share: no calibration, the stored bits are the value."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lookonce.storage_schemas.precision.base import Parameters, Precision, QuantisationPlan


class FloatPrecision(Precision):
    """A float type; subclasses name it."""

    float_dtype: ClassVar[str]
    calibrated: ClassVar[bool] = False

    def calibrate(self, values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Nothing to calibrate."""
        return {}

    def plan(self, parameters: Parameters) -> QuantisationPlan:
        """Round to the nearest float of the type."""
        return QuantisationPlan(bits=self.bits, float_dtype=self.float_dtype)
