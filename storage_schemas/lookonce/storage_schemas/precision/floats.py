"""Float precisions (fp16, bf16, fp8-e4m3): the stored bits are the value, so nothing is calibrated.

Relative errors: fp16 about 2e-4, bf16 2e-3 (stored as uint16, because zarr has no bfloat16), fp8-e4m3 0.027.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lookonce.storage_schemas.precision.base import Parameters
from lookonce.storage_schemas.precision.element import ElementPrecision, QuantisationPlan


class FloatPrecision(ElementPrecision):
    """Base of the precisions that store floats; subclasses name the type."""

    float_dtype: ClassVar[str]
    calibrated: ClassVar[bool] = False

    def calibrate(self, values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return no parameters: floats need none."""
        return {}

    def plan(self, parameters: Parameters) -> QuantisationPlan:
        """Round to the nearest float of the type."""
        return QuantisationPlan(bits=self.bits, float_dtype=self.float_dtype)


class Fp16(FloatPrecision):
    """IEEE binary16."""

    name: ClassVar[str] = "fp16"
    bits: ClassVar[int] = 16
    dtype: ClassVar[str] = "float16"
    float_dtype: ClassVar[str] = "float16"


class Bf16(FloatPrecision):
    """The upper half of an IEEE binary32."""

    name: ClassVar[str] = "bf16"
    bits: ClassVar[int] = 16
    dtype: ClassVar[str] = "uint16"
    float_dtype: ClassVar[str] = "bfloat16"


class Fp8E4M3(FloatPrecision):
    """OCP E4M3 ("fn": no infinities), largest value 448; stored as uint8."""

    name: ClassVar[str] = "fp8-e4m3"
    bits: ClassVar[int] = 8
    dtype: ClassVar[str] = "uint8"
    float_dtype: ClassVar[str] = "float8_e4m3fn"
