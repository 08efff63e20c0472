"""Sorting more than fits into memory: sorted runs on disk, then one merge."""

from __future__ import annotations

import heapq
import os
import pickle
import tempfile
from collections.abc import Iterator
from typing import Any, Self

RUN = 1 << 16
"""Items that are sorted in memory."""

BLOCK = 1024
"""Items of a run that are in memory while the runs are merged."""

Item = tuple[Any, ...]


class SortedRuns:
    """Takes tuples in any order and gives them back sorted; up to ``RUN`` of them never touch the disk.

    Args:
        folder: where the runs lie, in a file without a name; None for the system's folder of temporary files.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._items: list[Item] = []
        self._runs: list[list[tuple[int, int]]] = []
        self._file: Any = None
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return self._count

    def add(self, item: Item) -> None:
        """Take one more."""
        self._items.append(item)
        self._count += 1
        if len(self._items) == RUN:
            self._spill()

    def __iter__(self) -> Iterator[Item]:
        self._items.sort()
        return heapq.merge(self._items, *(self._read(run) for run in self._runs))

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by __exit__
        self._items.sort()
        blocks = []
        for start in range(0, RUN, BLOCK):
            position = self._file.tell()
            blocks.append((position, self._file.write(pickle.dumps(self._items[start : start + BLOCK]))))
        self._runs.append(blocks)
        self._items.clear()

    def _read(self, run: list[tuple[int, int]]) -> Iterator[Item]:
        self._file.flush()
        for position, size in run:
            yield from pickle.loads(os.pread(self._file.fileno(), size, position))  # our own, from a nameless file
