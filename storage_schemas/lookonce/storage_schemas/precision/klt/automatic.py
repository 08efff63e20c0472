"""``auto:PERCENT``: the KLT precision of the fewest bits whose estimated cost for a student is within a percentage.

The estimate is the squared relative error of patch tokens times a measured constant. Quantisation adds an error to the
targets; a student follows that part of the error that it could predict from the pixels, and its loss against exact
targets grows with the square of that part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lookonce.shared.errors import UsageError
from lookonce.storage_schemas.precision.klt.calibration import TargetStatistics
from lookonce.storage_schemas.precision.klt.precision import RATES, KltPrecision
from lookonce.storage_schemas.precision.klt.view_code import ViewCode

PREFIX = "auto:"

LOSS_PER_SQUARED_ERROR = 13.0
"""Percent of the held-out loss per squared relative error, with DeiT-Tiny: 13 on Tiny ImageNet (128 px, 12 epochs; one
run of the design study), 3 to 4 on flowers (80 px, 16 epochs, three run seeds; docs/results.md). The larger one is
taken."""


@dataclass(frozen=True, kw_only=True)
class AutomaticChoice:
    """What was chosen, and why."""

    precision: KltPrecision
    code: ViewCode
    relative_error: float
    """Expected root mean square error of patch tokens over their root mean square."""
    percent: float
    """Estimated growth of a student's held-out loss over exact features, in percent."""

    def text(self, asked: str) -> str:
        """One sentence for people.

        Args:
            asked: the precision as it was asked for.
        """
        return (
            f"--precision {asked}: {self.precision.name}, whose expected error of patch tokens is "
            f"{self.relative_error:.3f} and whose estimated cost for a student is {self.percent:.2g} % of its loss"
        )


def automatic_percent(precision: str) -> float | None:
    """The percentage of ``auto:PERCENT``; None for the name of a precision.

    Raises:
        UsageError: what follows ``auto:`` is no percentage above 0.

    >>> automatic_percent("auto:1.5"), automatic_percent("klt1")
    (1.5, None)
    """
    if not precision.startswith("auto"):
        return None
    try:
        percent = float(precision.removeprefix(PREFIX))
    except ValueError:
        percent = math.nan
    if not 0 < percent <= 100:
        raise UsageError(f"--precision {precision}: expected auto:PERCENT, above 0 and at most 100, such as auto:1")
    return percent


def estimated_loss_percent(relative_error: float) -> float:
    """Estimated growth of a student's held-out loss, in percent.

    >>> round(estimated_loss_percent(0.2), 3)
    0.52
    """
    return LOSS_PER_SQUARED_ERROR * relative_error**2


def choose_precision(statistics: TargetStatistics, asked: str, *, below_bits: float = math.inf) -> AutomaticChoice:
    """The precision of the fewest bits within the percentage.

    Args:
        statistics: of the calibration views.
        asked: ``auto:PERCENT``.
        below_bits: the precision must have fewer bits per value, as in a conversion.

    Raises:
        UsageError: no KLT precision is within the percentage.
    """
    percent = automatic_percent(asked)
    rates = sorted(rate for rate in RATES if rate < below_bits)
    if percent is None or not rates:
        raise UsageError(f"--precision {asked}: no KLT precision has fewer than {below_bits:g} bits per value")
    estimated = math.inf
    for rate in rates:
        code, expected = statistics.code(rate)
        estimated = estimated_loss_percent(expected.relative_error)
        if estimated <= percent:
            return AutomaticChoice(
                precision=KltPrecision(rate), code=code, relative_error=expected.relative_error, percent=estimated
            )
    raise UsageError(
        f"--precision {asked}: klt{rates[-1]:g} has an estimated cost of {estimated:.2g} % of a student's loss here; "
        "give a larger percentage, or a precision such as int8"
    )
