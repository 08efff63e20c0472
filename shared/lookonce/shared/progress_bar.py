"""One progress line on standard error: redrawn on a terminal, an occasional line in a log file."""

from __future__ import annotations

import sys
import threading
from typing import Any

from tqdm import tqdm

TICK_SECONDS = 1.0
"""Longest time between two redraws on a terminal, even if a unit takes longer."""


class _TickingBar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A bar that its own thread redraws every second, so that time and rate advance during a slow unit."""

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
        """Stop redrawing and leave the last line."""
        if ticks := getattr(self, "_ticks", None):  # tqdm may close a bar that it never opened
            self._closed.set()
            ticks.join()
            self._ticks = None
        super().close()


def progress_bar(
    *, total: int, unit: str, label: str | None = None, initial: int = 0, show: bool = True, brief: bool = False
) -> tqdm[Any]:
    """A tqdm bar that updates one to two times per second on a terminal, and four times per minute elsewhere.

    Args:
        total: total number of units.
        unit: name of a unit.
        label: what is done, in front of the bar.
        initial: number of units that are done already.
        show: whether to print anything.
        brief: whether a terminal forgets the bar when it is closed.
    """
    terminal = sys.stderr.isatty()
    return _TickingBar(
        total=total,
        unit=unit,
        desc=label,
        initial=initial,
        disable=not show or not total,
        leave=not (brief and terminal),
        mininterval=0.5 if terminal else 15.0,
        smoothing=0.1,
    )
