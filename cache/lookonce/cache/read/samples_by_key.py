"""Finds samples of a cache by key: rows change when images are added or removed, keys do not."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.read.reader import CacheReader

COLUMNS_KEPT = 128
"""Decoded columns of (seed, shard) that are kept, because neighbours are requested one after the other."""


class SamplesByKey:
    """Finds the row of a key, and the view of that row. Thread-safe, O(shards) memory.

    Args:
        reader: the open cache; its keys ascend, like those of every listing.
    """

    def __init__(self, reader: CacheReader) -> None:
        self._reader = reader
        self._size = reader.manifest.shard_size
        self._first_keys: dict[int, str] = {}
        self._holes = {
            seed: frozenset(hole.sample for receipt in reader.receipts(seed) for hole in receipt.holes)
            for seed in reader.seeds
        }
        self._column = lru_cache(maxsize=COLUMNS_KEPT)(self._load)
        self._loading = threading.Lock()  # one thread checks the digest of an object; the others wait

    def row(self, key: str) -> int | None:
        """The row of a key, or None if the cache has no such key.

        Raises:
            IntegrityError: an object with keys is damaged.
        """
        shards = range(self._reader.manifest.shard_count)
        shard = bisect.bisect_right(shards, key, key=self._first_key) - 1
        if shard < 0:
            return None
        keys = self._keys(shard)
        position = bisect.bisect_left(keys, key)
        return shard * self._size + position if position < len(keys) and keys[position] == key else None

    def present(self, key: str, seeds: Sequence[int]) -> int | None:
        """The row of a key if it is a hole in none of ``seeds``, else None.

        Raises:
            IntegrityError: an object with keys is damaged.
        """
        row = self.row(key)
        return None if row is None or any(row in self._holes[seed] for seed in seeds) else row

    def views(self, seed: int, rows: Sequence[int]) -> NDArray[np.int32]:
        """Crop, flip and source size of the views of rows, int32 (rows, 7).

        Raises:
            IntegrityError: an object with views is damaged.
        """
        return np.stack([self._column("view", seed, row // self._size)[row % self._size] for row in rows])

    def _first_key(self, shard: int) -> str:
        if shard not in self._first_keys:
            self._first_keys[shard] = self._keys(shard)[0]
        return self._first_keys[shard]

    def _keys(self, shard: int) -> Any:
        return self._column("key", self._reader.seeds[0], shard)

    def _load(self, name: str, seed: int, shard: int) -> Any:
        with self._loading:
            column = self._reader.column(name, seed, self._reader.manifest.shard_rows(shard))
        return [str(key) for key in column] if name == "key" else column
