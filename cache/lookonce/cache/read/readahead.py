"""Telling the kernel which samples come next, where that is faster than its own guess: chosen by a short measurement.

The kernel guesses that a file is read on from where it was read last, which shuffled samples contradict. On a cold
cache, announcing whole samples ahead is several times faster; on a warm one it only costs system calls.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from lookonce.cache.read.mapped_objects import MappedObject

ReadaheadMode = Literal["auto", "none", "advice"]
"""``none``: leave it to the kernel; ``advice``: announce samples; ``auto``: whichever the first announcement shows.
With ``advice``, what is read without having been announced comes a page at a time."""

PIECE = 1 << 17
"""Bytes announced at a time: the kernel cuts longer announcements at a length that differs between disks."""

Range = tuple[MappedObject, int, int]
"""An object, and first byte and length of a value in it."""

MEASURED = 32
"""Ranges of the first announcement that ``auto`` reads to choose, half of them announced."""

GAIN = 1.1
"""How much faster announced ranges must be to be worth their system calls."""


class Readahead:
    """The choice, and what follows from it; thread-safe.

    Args:
        mode: what to do, or ``auto``.
        seconds: a clock, for tests.
    """

    def __init__(self, mode: ReadaheadMode, seconds: Callable[[], float] = time.perf_counter) -> None:
        self._mode: ReadaheadMode = mode
        self._seconds = seconds
        self._lock = threading.Lock()

    @property
    def mode(self) -> ReadaheadMode:
        """``auto`` until the first announcement has shown what is faster."""
        return self._mode

    def opened(self, mapped: MappedObject) -> None:
        """Prepare a fresh map: where samples are announced, the kernel is not to guess."""
        if self._mode == "advice":
            mapped.memory.madvise(mmap.MADV_RANDOM)

    def announce(self, ranges: Sequence[Range]) -> None:
        """Announce what is read next."""
        with self._lock:
            if self._mode == "auto" and ranges:
                self._mode = self._faster(ranges[:MEASURED])
        if self._mode == "advice":
            for mapped, start, length in ranges:
                will_need(mapped, start, length)

    def _faster(self, ranges: Sequence[Range]) -> Literal["none", "advice"]:
        """Read every second range as it comes, the others after announcing them all."""
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
    """Ask the kernel to begin reading a range; returns at once."""
    first, end = start // mmap.PAGESIZE * mmap.PAGESIZE, start + length
    for piece in range(first, end, PIECE):
        mapped.memory.madvise(mmap.MADV_WILLNEED, piece, min(PIECE, end - piece))


def touch(mapped: MappedObject, start: int, length: int) -> None:
    """Bring a range into memory: one byte of each page is read."""
    mapped.data[start : start + length : mmap.PAGESIZE].max()
