"""Finds what limits a run that waits for its input, and names the change; rarely, and only if the wait is long."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass

LONG_WAIT = 0.05
"""Share of the time spent waiting for input, above which the user gets a note."""
WINDOW = 10.0
"""Seconds over which the wait is measured."""
SILENCE = 600.0
"""Seconds between two notes, at least."""
COLD_FAULTS = 0.5
"""Major page faults per sample from which the disk is the reason; a cache in memory has none."""


@dataclass
class ReadingCost:
    """Cost of reading batches, over all threads."""

    samples: int = 0
    seconds: float = 0.0
    """Wall-clock time in the threads, waits included."""
    cpu_seconds: float = 0.0
    disk_faults: int = 0
    """Major page faults, which wait for a disk (Linux; 0 elsewhere)."""


class InputWatch:
    """Measures the cost of reading; the reading threads call ``reading``, the training loop calls ``judge``.

    Args:
        threads: reading threads (``--workers``).
        replays: whether views are decoded from images (a cache made with ``--pixels none``).
    """

    def __init__(self, threads: int, *, replays: bool = False) -> None:
        self._threads, self._replays = threads, replays
        self._lock, self._cost = threading.Lock(), ReadingCost()
        self._waited = self._elapsed = self._silent = 0.0
        self._started = False

    @contextlib.contextmanager
    def reading(self, samples: int) -> Generator[None, None, None]:
        """Measure the reading of one batch.

        Args:
            samples: in the batch.
        """
        begun, cpu, faults = time.perf_counter(), time.thread_time(), _disk_faults()
        yield
        with self._lock:
            self._cost.samples += samples
            self._cost.seconds += time.perf_counter() - begun
            self._cost.cpu_seconds += time.thread_time() - cpu
            self._cost.disk_faults += _disk_faults() - faults

    def judge(self, waited: float, elapsed: float) -> str | None:
        """What limits the input, if the wait is long.

        Args:
            waited: seconds spent waiting for input since the last call.
            elapsed: seconds since the last call.

        Returns:
            A note for the user; None if the wait is short or the last note is recent. The first call returns None,
            because the first batch always makes the student wait.
        """
        self._silent -= elapsed
        if self._started:
            self._waited += waited
            self._elapsed += elapsed
        if self._started and self._elapsed < WINDOW:
            return None
        share = self._waited / self._elapsed if self._elapsed else 0.0
        self._started, self._waited, self._elapsed = True, 0.0, 0.0
        with self._lock:
            cost, self._cost = self._cost, ReadingCost()
        if share <= LONG_WAIT or not cost.samples or self._silent > 0:
            return None
        self._silent = SILENCE
        return f"the student waited for its input {share:.0%} of the time: {self._reason(cost)}"

    def _reason(self, cost: ReadingCost) -> str:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        more_threads = f"raise --workers ({self._threads} now, {cores} cores)"
        faults = cost.disk_faults / cost.samples
        if faults >= COLD_FAULTS:
            return (
                f"reading waits for the disk ({faults:.1f} major page faults per sample). {more_threads}, put the "
                "cache on a faster disk or into memory, or make it smaller (feature-cache convert "
                "--precision int4, or --tokens visible)"
            )
        milliseconds = 1e3 * cost.seconds / cost.samples
        if self._replays:
            return (
                f"a thread needs {milliseconds:.1f} ms per sample to decode the images that views are replayed from. "
                f"Extract with --pixels store, or {more_threads}"
            )
        if cost.cpu_seconds < cost.seconds / 2:
            return (
                f"the reading threads wait for a core or for memory ({milliseconds:.1f} ms per sample, "
                f"{1e3 * cost.cpu_seconds / cost.samples:.1f} ms of them on a core). Give the run more cores"
            )
        if self._threads < cores:
            return f"too few threads read ({milliseconds:.1f} ms per sample and thread): {more_threads}"
        return (
            f"all {cores} cores gather samples ({milliseconds:.1f} ms per sample and thread). Give the run more cores, "
            "or a cache with fewer levels (extract-features --layers) or bits (feature-cache convert --precision int4)"
        )


def _disk_faults() -> int:
    who = getattr(resource, "RUSAGE_THREAD", None)
    return 0 if who is None else resource.getrusage(who).ru_majflt
