"""Announces the next samples to the kernel, if a short measurement shows that this is faster.

The kernel expects sequential reads, which shuffled samples are not. On a cold page cache, announcing complete samples
ahead is several times faster; on a warm one it only costs system calls.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from lookonce.cache.read.mapped_objects import MappedObject

ReadaheadMode = Literal["auto", "none", "advice"]
"""``none``: leave it to the kernel; ``advice``: announce samples; ``auto``: the faster one in the first announcement.
With ``advice``, samples that were not announced are read page by page."""

ANNOUNCED_BYTES = 1 << 17
"""Bytes per announcement: the kernel truncates longer ones, at a length that differs between disks."""

Range = tuple[MappedObject, int, int]
"""An object, and the first byte and length of a value in it."""

MEASURED = 32
"""Number of ranges that ``auto`` reads for its choice; half of them are announced."""

GAIN = 1.1
"""Least speed-up of announced ranges that is worth their system calls."""


class Readahead:
    """Chooses a mode and announces ranges. Thread-safe.

    Args:
        mode: the mode, or ``auto`` to measure it.
        seconds: a clock, for tests.
    """

    def __init__(self, mode: ReadaheadMode, seconds: Callable[[], float] = time.perf_counter) -> None:
        self._mode: ReadaheadMode = mode
        self._seconds = seconds
        self._lock = threading.Lock()

    @property
    def mode(self) -> ReadaheadMode:
        """The mode; ``auto`` until the first announcement."""
        return self._mode

    def prepare(self, mapped: MappedObject) -> None:
        """Prepare a new map: if samples are announced, the kernel's own readahead is switched off."""
        if self._mode == "advice":
            mapped.memory.madvise(mmap.MADV_RANDOM)

    def announce(self, ranges: Sequence[Range]) -> None:
        """Announce the next ranges."""
        with self._lock:
            if self._mode == "auto" and ranges:
                self._mode = self._faster(ranges[:MEASURED])
        if self._mode == "advice":
            for mapped, start, length in ranges:
                will_need(mapped, start, length)

    def _faster(self, ranges: Sequence[Range]) -> Literal["none", "advice"]:
        """Time every second range without announcement, then the others after announcing them."""
        unannounced, announced = ranges[0::2], ranges[1::2]
        started = self._seconds()
        for touched in unannounced:
            touch(*touched)
        plain = (self._seconds() - started) / len(unannounced)
        if not announced:
            return "none"
        for mapped, _, _ in announced:
            mapped.memory.madvise(mmap.MADV_RANDOM)
        started = self._seconds()
        for mapped, start, length in announced:
            will_need(mapped, start, length)
        for touched in announced:
            touch(*touched)
        if plain > GAIN * (self._seconds() - started) / len(announced):
            return "advice"
        for mapped, _, _ in announced:
            mapped.memory.madvise(mmap.MADV_NORMAL)
        return "none"


def will_need(mapped: MappedObject, start: int, length: int) -> None:
    """Ask the kernel to start reading a range, without waiting."""
    first, end = start // mmap.PAGESIZE * mmap.PAGESIZE, start + length
    for begin in range(first, end, ANNOUNCED_BYTES):
        mapped.memory.madvise(mmap.MADV_WILLNEED, begin, min(ANNOUNCED_BYTES, end - begin))


def touch(mapped: MappedObject, start: int, length: int) -> None:
    """Load a range into memory by reading one byte of each page."""
    mapped.data[start : start + length : mmap.PAGESIZE].max()
