"""One progress line on standard error: lively on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import threading
from typing import Any

from tqdm import tqdm

TICK_SECONDS = 1.0
"""Longest time between two drawings on a terminal, however long a unit takes."""


class _TickingBar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A bar that a thread of its own draws again every second: time and rate move while a slow unit is under way."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._closed = threading.Event()
        self._ticks: threading.Thread | None = None
        if not self.disable and sys.stderr.isatty():
            self._ticks = threading.Thread(target=self._tick, name="lookonce-progress", daemon=True)
            self._ticks.start()

    def _tick(self) -> None:
        while not self._closed.wait(TICK_SECONDS):
            self.refresh()

    def close(self) -> None:
        """Stop drawing; leaves the last line."""
        if ticks := getattr(self, "_ticks", None):  # tqdm may close what it never opened
            self._closed.set()
            ticks.join()
            self._ticks = None
        super().close()


def progress_bar(*, total: int, unit: str, initial: int = 0, show: bool = True) -> tqdm[Any]:
    """A tqdm bar that updates twice a second on a terminal, at least once a second, and four times a minute elsewhere.

    Args:
        total: how many units there are in all.
        unit: name of a unit.
        initial: units done before.
        show: whether anything is printed.
    """
    every = 0.5 if sys.stderr.isatty() else 15.0
    return _TickingBar(
        total=total, unit=unit, initial=initial, disable=not show or not total, mininterval=every, smoothing=0.1
    )
