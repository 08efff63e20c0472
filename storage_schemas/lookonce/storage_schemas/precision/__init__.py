"""Precisions: how a float target becomes bytes. ``PRECISIONS`` is the table of all, each family has its own file.

Open ``base.py`` first: what each precision declares. ``element.py`` has the numpy reference of those that store values
one by one, ``klt/`` has those that code a view as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping

from lookonce.shared.errors import UsageError
from lookonce.shared.names import unknown_name
from lookonce.storage_schemas.precision.base import Precision, StoredArray, TargetShape
from lookonce.storage_schemas.precision.element import ElementPrecision, QuantisationPlan
from lookonce.storage_schemas.precision.floats import Bf16, Fp8E4M3, Fp16
from lookonce.storage_schemas.precision.int8 import Int8
from lookonce.storage_schemas.precision.klt.automatic import automatic_percent, choose_precision
from lookonce.storage_schemas.precision.klt.precision import (
    RATES,
    KltPrecision,
    calibration_view_count,
    gathered_statistics,
)
from lookonce.storage_schemas.precision.lloyd_max import Int2, Int4

PRECISIONS: Mapping[str, Precision] = {
    precision.name: precision
    for precision in (Fp16(), Bf16(), Fp8E4M3(), Int8(), Int4(), Int2(), *(KltPrecision(rate) for rate in RATES))
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


def require_precision(name: str) -> None:
    """Refuse what is neither a precision nor ``auto:PERCENT``.

    Raises:
        UsageError: the name is unknown, or the percentage out of range.
    """
    if automatic_percent(name) is None:
        get_precision(name)


def is_calibrated(name: str) -> bool:
    """Whether a precision, or one chosen automatically, has parameters that are computed from sample views.

    Raises:
        UsageError: see ``require_precision``.
    """
    return automatic_percent(name) is not None or get_precision(name).calibrated


def get_element_precision(name: str) -> ElementPrecision:
    """The precision of that name, which must store its values one by one.

    Raises:
        UsageError: the name is unknown, or of a precision that codes a view as a whole.
    """
    precision = get_precision(name)
    if not isinstance(precision, ElementPrecision):
        known = [name for name, one in PRECISIONS.items() if isinstance(one, ElementPrecision)]
        raise UsageError(f"precision {name} codes views as a whole; expected one of {', '.join(known)}")
    return precision


__all__ = [
    "PRECISIONS",
    "ElementPrecision",
    "KltPrecision",
    "Precision",
    "QuantisationPlan",
    "StoredArray",
    "TargetShape",
    "automatic_percent",
    "calibration_view_count",
    "choose_precision",
    "gathered_statistics",
    "get_element_precision",
    "get_precision",
    "is_calibrated",
    "require_precision",
]
