"""Keys of samples: all in memory, or by shard as batches need them where reading them all would fetch a whole cache."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.read.reader import CacheReader


class SampleKeys:
    """Keys of the rows of a cache; thread-safe.

    Args:
        reader: the open cache.
        by_shard: read the keys of a shard when a sample of it is asked for, and keep them.
    """

    def __init__(self, reader: CacheReader, *, by_shard: bool = False) -> None:
        self._reader, self._lock = reader, threading.Lock()
        self._all: list[str] | None = None if by_shard else list(reader.column("key", reader.seeds[0]))
        self._shards: dict[int, list[str]] = {}

    def everything(self) -> list[str]:
        """The keys of all rows."""
        if self._all is None:
            self._all = list(self._reader.column("key", self._reader.seeds[0]))
        return self._all

    def of(self, rows: NDArray[np.int64], seeds: NDArray[np.int64]) -> list[str]:
        """Keys of some rows, which are equal in all seeds.

        Args:
            rows: rows, (B,).
            seeds: seed of each, whose shard is read for it, (B,).
        """
        if self._all is not None:
            return [self._all[row] for row in rows.tolist()]
        size = self._reader.manifest.shard_size
        keys = []
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            shard = row // size
            if shard not in self._shards:
                self._read(shard, seed)
            keys.append(self._shards[shard][row - shard * size])
        return keys

    def _read(self, shard: int, seed: int) -> None:
        with self._lock:
            if shard not in self._shards:
                rows = self._reader.manifest.shard_rows(shard)
                self._shards[shard] = list(self._reader.column("key", seed, rows))
