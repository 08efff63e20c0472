"""One progress line on standard error: lively on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(*, total: int, unit: str, initial: int = 0, show: bool = True) -> tqdm[Any]:
    """A tqdm bar that updates twice a second on a terminal and four times a minute elsewhere.

    Args:
        total: how many units there are in all.
        unit: name of a unit.
        initial: units done before.
        show: whether anything is printed.
    """
    every = 0.5 if sys.stderr.isatty() else 15.0
    return tqdm(
        total=total, unit=unit, initial=initial, disable=not show or not total, mininterval=every, smoothing=0.1
    )
