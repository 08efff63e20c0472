"""Precisions: how a float target becomes bytes. ``PRECISIONS`` is the table of all, each family has its own file.

Open ``base.py`` first: what each precision declares, and the numpy reference of encoding and decoding.
"""

from __future__ import annotations

from collections.abc import Mapping

from lookonce.shared.errors import UsageError
from lookonce.shared.names import unknown_name
from lookonce.storage_schemas.precision.base import Precision, QuantisationPlan
from lookonce.storage_schemas.precision.floats import Bf16, Fp8E4M3, Fp16
from lookonce.storage_schemas.precision.int8 import Int8
from lookonce.storage_schemas.precision.lloyd_max import Int2, Int4

PRECISIONS: Mapping[str, Precision] = {
    precision.name: precision for precision in (Fp16(), Bf16(), Fp8E4M3(), Int8(), Int4(), Int2())
}
"""All precisions by name, from most to fewest bytes."""


def get_precision(name: str) -> Precision:
    """The precision of that name.

    Raises:
        UsageError: the name is unknown; the message lists the known names.
    """
    try:
        return PRECISIONS[name]
    except KeyError:
        raise UsageError(unknown_name("precision", name, PRECISIONS)) from None


__all__ = ["PRECISIONS", "Precision", "QuantisationPlan", "get_precision"]
