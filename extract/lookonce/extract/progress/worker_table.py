"""One row a worker while an extraction runs: its rate, and where the time of its lanes goes."""

from __future__ import annotations

import collections
import time
from typing import Any

from tqdm import tqdm

from lookonce.extract.pipeline.batch_encoder import ThreadTimes
from lookonce.extract.pipeline.pipeline import BatchProgress

REDRAW_INTERVAL = 0.5
"""Seconds between two drawings of a row."""


class WorkerTable:
    """Rows under the progress line of a terminal; for anything else, and for a single worker, the line is enough.

    Args:
        show: whether rows are drawn.
    """

    def __init__(self, *, show: bool) -> None:
        self._show = show
        self._started = time.perf_counter()
        self._views: collections.Counter[str] = collections.Counter()
        self._spent: dict[str, ThreadTimes] = {}
        self._rows: dict[str, tqdm[Any]] = {}
        self._drawn: dict[str, float] = {}

    @property
    def spent(self) -> ThreadTimes:
        """Where the time of all workers' lanes went."""
        total = ThreadTimes()
        for one in self._spent.values():
            total = total + one
        return total

    def update(self, event: BatchProgress) -> None:
        """Count one event; views that are taken back count in the totals alone."""
        if event.views <= 0:
            return
        self._views[event.worker] += event.views
        self._spent[event.worker] = self._spent.get(event.worker, ThreadTimes()) + event.time
        if self._show and len(self._spent) > 1:
            for worker in self._spent:
                self._draw(worker)

    def row(self, worker: str) -> str:
        """The row of a worker."""
        rate = self._views[worker] / max(time.perf_counter() - self._started, 1e-9)
        shares = "  ".join(f"{name} {share:>4.0%}" for name, share in self._spent[worker].shares().items())
        return f"  {worker:<28}{rate:>9.1f} view/s  {shares}"

    def close(self) -> None:
        """Leave the last rows on the screen."""
        for bar in self._rows.values():
            bar.close()

    def _draw(self, worker: str) -> None:
        now = time.perf_counter()
        if worker not in self._rows:
            self._rows[worker] = tqdm(bar_format="{desc}", position=len(self._rows) + 1)
        elif now - self._drawn[worker] < REDRAW_INTERVAL:
            return
        self._drawn[worker] = now
        self._rows[worker].set_description_str(self.row(worker))


def efficiency(spent: ThreadTimes) -> float | None:
    """Rate over the bare forward's: the share of the lanes' time, 0..1, that the forward alone takes; None before any.

    On CPUs the forward counts with its CPU time, so that what decoding and other work take of the cores is not
    mistaken for it; on a GPU with the time that it has the device for itself.

    >>> efficiency(ThreadTimes(decode=1.0, teacher=8.0, write=1.0, forward=7.5))
    0.75
    """
    total = spent.decode + spent.teacher + spent.write
    return round(spent.forward / total, 4) if total else None


def teacher_shares(spent: ThreadTimes) -> dict[str, float]:
    """Shares of the teacher's time, 0..1: ``forward``, ``core_wait``, and ``rest`` (encoding, copying); empty without.

    >>> teacher_shares(ThreadTimes(decode=1.0, teacher=8.0, forward=2.0, core_wait=5.0))
    {'forward': 0.25, 'core_wait': 0.625, 'rest': 0.125}
    """
    if not spent.teacher:
        return {}
    parts = {"forward": spent.forward, "core_wait": spent.core_wait}
    shares = {name: round(part / spent.teacher, 4) for name, part in parts.items()}
    return {**shares, "rest": round(max(0.0, 1 - sum(shares.values())), 4)}
