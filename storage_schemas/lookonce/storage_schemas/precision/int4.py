"""Four bits with a 16-level Lloyd-Max table: relative error about 0.1, half a byte a value."""

from __future__ import annotations

from typing import ClassVar

from lookonce.storage_schemas.precision.lloyd_max import LloydMaxPrecision


class Int4(LloydMaxPrecision):
    """16 levels, two values a byte."""

    name: ClassVar[str] = "int4"
    bits: ClassVar[int] = 4
