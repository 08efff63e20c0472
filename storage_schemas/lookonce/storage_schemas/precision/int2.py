"""Two bits with a 4-level Lloyd-Max table: relative error about 0.35, a quarter of a byte a value; for experiments."""

from __future__ import annotations

from typing import ClassVar

from lookonce.storage_schemas.precision.lloyd_max import LloydMaxPrecision


class Int2(LloydMaxPrecision):
    """4 levels, four values a byte."""

    name: ClassVar[str] = "int2"
    bits: ClassVar[int] = 2
