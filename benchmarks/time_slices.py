"""Contestants take short turns on all cores, which compares them on a machine whose speed varies.

The machines that this was written on take 450 CPU-ms for a forward in one minute and 590 in another. Rounds of half a
minute one after the other compare those minutes. Here each contestant is a process of its own that works without end;
all but one are stopped (SIGSTOP), and at each turn the next one goes on where it was. What slows the machine for
longer than that slows all of them alike, and no contestant ever begins or ends a job, so that nothing is rounded to
whole batches and no pipeline runs empty.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawValue
from typing import Any

import psutil
from harness import end_with_parent

Work = Callable[[], Iterator[int]]
"""Can be pickled; works without end and yields units of work as they are done."""


@dataclass(frozen=True)
class Slice:
    """One turn of a contestant."""

    units: float
    wall: float
    """Seconds."""
    cpu: float
    """CPU-seconds of the process."""

    @staticmethod
    def total(slices: Sequence[Slice]) -> Slice:
        """Some turns together."""
        return Slice(*(sum(getattr(one, name) for one in slices) for name in ("units", "wall", "cpu")))

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.units / self.wall

    @property
    def cpu_per_unit(self) -> float:
        return self.cpu / self.units


def take_turns(contestants: Mapping[str, tuple[Work, float]], turns: int) -> dict[str, list[Slice]]:
    """Let contestants take turns.

    Args:
        contestants: what each does, and the seconds of its turns.
        turns: of each.

    Raises:
        RuntimeError: a contestant ended.
    """
    running: dict[str, _Contestant] = {}
    try:
        for name, (work, _) in contestants.items():  # one at a time: each warms up alone
            running[name] = _Contestant(name, work)
            running[name].turn(3, at_least=1)
        slices: dict[str, list[Slice]] = {name: [] for name in contestants}
        for _ in range(turns):
            for name, (_, seconds) in contestants.items():
                slices[name].append(running[name].turn(seconds))
        return slices
    finally:
        for one in running.values():
            one.process.kill()
            one.process.join()  # it writes no more


class _Contestant:
    """A process that is stopped between its turns."""

    def __init__(self, name: str, work: Work) -> None:
        self._name, self._units = name, RawValue("d", 0.0)  # no lock: its holder might be stopped
        self.process: BaseProcess = get_context("spawn").Process(target=_work, args=(work, self._units), daemon=True)
        self.process.start()
        self._seen = psutil.Process(self.process.pid)

    def turn(self, seconds: float, at_least: float = 0.0) -> Slice:
        """Continue for some seconds, and until that many units were done since the start."""
        units, cpu, started = self._units.value, self._cpu(), time.perf_counter()
        os.kill(self._seen.pid, signal.SIGCONT)
        time.sleep(seconds)
        while self._units.value < at_least and self.process.is_alive():
            time.sleep(0.1)
        if not self.process.is_alive():
            raise RuntimeError(f"{self._name} ended (exit code {self.process.exitcode})")
        os.kill(self._seen.pid, signal.SIGSTOP)
        return Slice(self._units.value - units, time.perf_counter() - started, self._cpu() - cpu)

    def _cpu(self) -> float:
        times = self._seen.cpu_times()
        return float(times.user + times.system)


def _work(work: Work, units: Any) -> None:
    end_with_parent()
    for done in work():
        units.value += done
