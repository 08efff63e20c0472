"""Eight-bit float with four exponent bits: relative error about 0.027, one byte a value, no calibration."""

from __future__ import annotations

from typing import ClassVar

from lookonce.storage_schemas.precision.floats import FloatPrecision


class Fp8E4M3(FloatPrecision):
    """OCP E4M3 ("fn": no infinities), largest value 448; stored as uint8."""

    name: ClassVar[str] = "fp8-e4m3"
    bits: ClassVar[int] = 8
    dtype: ClassVar[str] = "uint8"
    float_dtype: ClassVar[str] = "float8_e4m3fn"
