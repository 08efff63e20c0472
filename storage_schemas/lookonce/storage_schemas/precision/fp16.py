"""IEEE half precision: relative error about 2e-4, two bytes a value."""

from __future__ import annotations

from typing import ClassVar

from lookonce.storage_schemas.precision.floats import FloatPrecision


class Fp16(FloatPrecision):
    """IEEE binary16."""

    name: ClassVar[str] = "fp16"
    bits: ClassVar[int] = 16
    dtype: ClassVar[str] = "float16"
    float_dtype: ClassVar[str] = "float16"
