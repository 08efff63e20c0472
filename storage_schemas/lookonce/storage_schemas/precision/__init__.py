"""Precisions: how a float target becomes bytes. One file each, one table from name to class."""

from __future__ import annotations

from collections.abc import Mapping

from lookonce.shared.errors import UsageError
from lookonce.storage_schemas.precision.base import Precision
from lookonce.storage_schemas.precision.fp16 import Fp16
from lookonce.storage_schemas.precision.int8 import Int8

PRECISIONS: Mapping[str, Precision] = {precision.name: precision for precision in (Fp16(), Int8())}


def get_precision(name: str) -> Precision:
    """The precision of that name.

    Raises:
        UsageError: there is none; the message lists the known ones.
    """
    try:
        return PRECISIONS[name]
    except KeyError:
        raise UsageError(f"unknown precision {name!r}; known: {', '.join(PRECISIONS)}") from None


__all__ = ["PRECISIONS", "Precision", "get_precision"]
