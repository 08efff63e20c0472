"""bfloat16: relative error about 2e-3, two bytes a value; stored as uint16, as zarr has no bfloat16 in its core."""

from __future__ import annotations

from typing import ClassVar

from lookonce.storage_schemas.precision.floats import FloatPrecision


class Bf16(FloatPrecision):
    """The upper half of an IEEE binary32."""

    name: ClassVar[str] = "bf16"
    bits: ClassVar[int] = 16
    dtype: ClassVar[str] = "uint16"
    float_dtype: ClassVar[str] = "bfloat16"
