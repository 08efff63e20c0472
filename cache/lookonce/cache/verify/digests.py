"""Checks digests of objects in parallel threads (SHA-256 releases the GIL)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from lookonce.cache.read.mapped_objects import digest_file
from lookonce.cache.verify.findings import Finding
from lookonce.cache.verify.shard_check import ShardCheck, ShardChecker
from lookonce.storage_schemas.receipt import StoredObject

Progress = Callable[[int, int], None]
"""Called with digested bytes and total bytes; by several threads, one at a time."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def check_digests(
    root: Path, checkers: Sequence[ShardChecker], checks: Sequence[ShardCheck], workers: int, progress: Progress | None
) -> list[Finding]:
    """Check the digest of every object without a finding so far."""
    todo = [(checker, stored) for checker, check in zip(checkers, checks, strict=True) for stored in check.sound]
    meter = _Meter(sum(stored.bytes for _, stored in todo), progress)

    def digest(item: tuple[ShardChecker, StoredObject]) -> Finding | None:
        checker, stored = item
        try:
            with (root / stored.path).open("rb", buffering=0) as handle:
                found = digest_file(handle, meter.add)
        except OSError as error:
            return checker.unreadable(stored, error)
        return None if found == stored.digest else checker.digest_mismatch(stored, found)

    return [finding for finding in in_threads(digest, todo, workers) if finding is not None]


class _Meter:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._progress is not None:
                self._progress(self._done, self._total)


def in_threads(function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int) -> Iterator[_Result]:
    """Like ``map`` in ``workers`` threads, results in order; an interrupt cancels calls that have not started."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
