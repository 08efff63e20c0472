"""Says what limits a run that waits for its input, and what to change; seldom, and only when it is sure to matter."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass

WORTH_SAYING = 0.05
"""Share of the time spent waiting for input above which a run says so."""
WINDOW = 10.0
"""Seconds over which waiting is judged."""
SILENCE = 600.0
"""Seconds of silence after something was said."""
FAULTS_OF_A_COLD_SAMPLE = 0.5
"""Page faults a sample that went to the disk, from which on the disk is the reason; a warm cache has none."""


@dataclass
class ReadingCost:
    """What reading batches took, over all threads."""

    samples: int = 0
    seconds: float = 0.0
    """In the threads, waiting included."""
    cpu_seconds: float = 0.0
    disk_faults: int = 0
    """Page faults that had to wait for a disk (Linux; elsewhere 0)."""


class InputWatch:
    """Watches what reading costs; ``reading`` is called in the threads that read, ``judge`` where batches are used.

    Args:
        threads: threads that read (``--workers``).
        replays: whether views are decoded from images (a cache of ``--pixels none``).
    """

    def __init__(self, threads: int, *, replays: bool = False) -> None:
        self._threads, self._replays = threads, replays
        self._lock, self._cost = threading.Lock(), ReadingCost()
        self._waited = self._elapsed = self._silent = 0.0
        self._started = False

    @contextlib.contextmanager
    def reading(self, samples: int) -> Generator[None, None, None]:
        """Around the reading of a batch of so many samples."""
        begun, cpu, faults = time.perf_counter(), time.thread_time(), _disk_faults()
        yield
        with self._lock:
            self._cost.samples += samples
            self._cost.seconds += time.perf_counter() - begun
            self._cost.cpu_seconds += time.thread_time() - cpu
            self._cost.disk_faults += _disk_faults() - faults

    def judge(self, waited: float, elapsed: float) -> str | None:
        """What limits the input, when it is worth saying.

        Args:
            waited: seconds spent waiting for input since the last call.
            elapsed: seconds since the last call.

        Returns:
            A sentence for the user; None when there is nothing to say, or something was said lately. The first call
            is not judged: the first batch is always waited for.
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
        if share <= WORTH_SAYING or not cost.samples or self._silent > 0:
            return None
        self._silent = SILENCE
        return f"the student waited for its input {share:.0%} of the time: {self._reason(cost)}"

    def _reason(self, cost: ReadingCost) -> str:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        more_threads = f"raise --workers ({self._threads} now, {cores} cores)"
        faults = cost.disk_faults / cost.samples
        if faults >= FAULTS_OF_A_COLD_SAMPLE:
            return (
                f"reading waits for the disk ({faults:.1f} page faults a sample went there). {more_threads}, put the "
                "cache on a faster disk or where it fits into memory, or make it smaller (feature-cache convert "
                "--precision int4, or --tokens visible)"
            )
        milliseconds = 1e3 * cost.seconds / cost.samples
        if self._replays:
            return (
                f"decoding the images that views are replayed from takes a thread {milliseconds:.1f} ms a sample. "
                f"Extract with --pixels store, or {more_threads}"
            )
        if cost.cpu_seconds < cost.seconds / 2:
            return (
                f"the threads that read wait for a core or for memory ({milliseconds:.1f} ms a sample, "
                f"{1e3 * cost.cpu_seconds / cost.samples:.1f} at work). Give the run more of the machine's cores"
            )
        if self._threads < cores:
            return f"too few threads read ({milliseconds:.1f} ms a sample and thread): {more_threads}"
        return (
            f"all {cores} cores gather samples ({milliseconds:.1f} ms a sample and thread). Give the run more cores, "
            "or a cache with fewer levels (extract-features --layers) or bits (feature-cache convert --precision int4)"
        )


def _disk_faults() -> int:
    who = getattr(resource, "RUSAGE_THREAD", None)
    return 0 if who is None else resource.getrusage(who).ru_majflt
