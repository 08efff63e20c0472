"""Where the workers' time goes: one row per worker while an extraction runs, and the totals of its summary."""

from __future__ import annotations

import collections
import time

from rich.console import Group, RenderableType
from rich.table import Table

from lookonce.extract.pipeline.events import ThreadTimes, ViewsDone


class WorkerTable:
    """Views and times by worker. rich draws it as a table with a row per worker, and not at all for a single worker."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._views: collections.Counter[str] = collections.Counter()
        self._spent: dict[str, ThreadTimes] = {}

    @property
    def spent(self) -> ThreadTimes:
        """Where the time of the teacher threads of all workers went."""
        return sum(self._spent.values(), ThreadTimes())

    def update(self, event: ViewsDone) -> None:
        """Count one event; copied views take no time of a teacher thread."""
        if event.views:
            self._views[event.worker] += event.views
            self._spent[event.worker] = self._spent.get(event.worker, ThreadTimes()) + event.time

    def __rich__(self) -> RenderableType:
        """A row per worker: views per second, and the shares of its time."""
        spent = dict(self._spent)  # rich draws in a thread of its own
        if len(spent) < 2:
            return Group()
        seconds = max(time.perf_counter() - self._started, 1e-9)
        table = Table("worker", "views/s", "decode", "teacher", "write", box=None, header_style="")
        for worker, times in spent.items():
            shares = times.shares()
            parts = (f"{shares.get(name, 0.0):.0%}" for name in ("decode", "teacher", "write"))
            table.add_row(worker, f"{self._views[worker] / seconds:.1f}", *parts)
        return table


def efficiency(spent: ThreadTimes) -> float | None:
    """Rate relative to the bare forward pass: its share of the teacher threads' time, 0..1; None before any time.

    On CPUs the forward pass counts with its CPU time, so that cores that decoding and other work use are not counted
    for it. On a GPU it counts with the time in which it has the device to itself.

    >>> efficiency(ThreadTimes(decode=1.0, teacher=8.0, write=1.0, forward=7.5))
    0.75
    """
    total = spent.decode + spent.teacher + spent.write
    return round(spent.forward / total, 4) if total else None


def teacher_shares(spent: ThreadTimes) -> dict[str, float]:
    """Shares of the teacher's time, 0..1: ``forward``, ``core_wait``, ``rest`` (encoding, copying); empty if it is 0.

    >>> teacher_shares(ThreadTimes(decode=1.0, teacher=8.0, forward=2.0, core_wait=5.0))
    {'forward': 0.25, 'core_wait': 0.625, 'rest': 0.125}
    """
    if not spent.teacher:
        return {}
    parts = {"forward": spent.forward, "core_wait": spent.core_wait}
    shares = {name: round(part / spent.teacher, 4) for name, part in parts.items()}
    return {**shares, "rest": round(max(0.0, 1 - sum(shares.values())), 4)}
