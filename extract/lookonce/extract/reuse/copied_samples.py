"""Samples that an earlier cache holds exactly as a new one would: found, and put in between those that are computed."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.samples_by_key import SamplesByKey
from lookonce.cache.write.shard_writer import ShardWriter
from lookonce.extract.sanity import ShardStatistics
from lookonce.extract.views.image_views import ViewProducer
from lookonce.shared.patches import patchify
from lookonce.shared.sources import ListingEntry
from lookonce.shared.views import pixel_digest
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt

BATCH_SIZE = 32
"""Samples read and appended at a time."""


class CopiedSamples:
    """Finds the rows of a shard that can be copied, and reads them; thread-safe.

    Args:
        reader: the earlier cache, of the same encoding.
        manifest: of the new cache.
        fresh: cuts views from images; with it every image is looked at again, and a sample is copied only where the
            pixels of its views have the stored digests. None: the images are known to be the same.
    """

    def __init__(self, reader: CacheReader, manifest: Manifest, fresh: ViewProducer | None) -> None:
        self._reader, self._manifest, self._fresh = reader, manifest, fresh
        self._samples = SamplesByKey(reader)
        self._arrays = [spec.name for spec in manifest.arrays if spec.chunking == "sample"]

    def find(
        self, rows: Sequence[int], entries: Sequence[ListingEntry], seeds: Sequence[int], threads: Executor
    ) -> dict[int, int]:
        """Rows that need not be computed, and where the earlier cache holds them, under all of ``seeds``.

        Args:
            rows: of the new cache.
            entries: their listing entries, as many.
            seeds: augmentation seeds.
            threads: where images are looked at.

        Raises:
            IntegrityError: an object of the earlier cache is damaged.
            SourceError: an image that has to be looked at is gone.
        """
        if not set(seeds) <= set(self._reader.seeds):
            return {}
        found = threads.map(lambda row, entry: self._find(row, entry, seeds), rows, entries)
        return {row: held for row, held in zip(rows, found, strict=True) if held is not None}

    def _find(self, row: int, entry: ListingEntry, seeds: Sequence[int]) -> int | None:
        held = self._samples.present(entry.key, seeds)
        if held is None or self._fresh is None:
            return held
        views = self._fresh.views(row, entry, seeds)
        if views.pixels is None:
            return None
        patches = patchify(views.pixels, self._manifest.recipe.patch_size)
        digests = np.stack([pixel_digest(view) for view in patches])
        return held if np.array_equal(digests, self._reader.read("pixel_digest", seeds, [held] * len(seeds))) else None

    def read(self, seed: int, rows: Sequence[int]) -> dict[str, NDArray[Any]]:
        """All streamed arrays of rows of the earlier cache.

        Raises:
            IntegrityError: an object of the earlier cache is damaged.
        """
        values = {name: self._reader.read(name, [seed] * len(rows), rows) for name in self._arrays}
        return {**values, "view": self._samples.views(seed, rows)}

    def receipt(self, seed: int, row: int) -> Receipt:
        """The receipt of the earlier cache that vouches for a row."""
        return self._reader.receipts(seed)[row // self._reader.manifest.shard_size]


class MergingWriter(ShardWriter):
    """A shard writer that puts copied samples where they belong among those that are appended.

    Args:
        root: the new cache.
        manifest: of the new cache.
        seed: which seed.
        shard: which shard.
        keys: of all its rows.
        labels: of all its rows.
        samples: reads what is copied.
        copied: rows that are copied, and where the earlier cache holds them; none of them is appended or left out.
    """

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        *,
        seed: int,
        shard: int,
        keys: Sequence[str],
        labels: Sequence[int],
        samples: CopiedSamples,
        copied: Mapping[int, int],
    ) -> None:
        super().__init__(root, manifest, seed=seed, shard=shard, keys=keys, labels=labels)
        self._samples, self._width = samples, manifest.recipe.teacher.width
        self._pending = sorted(copied.items())
        self._copied, self._computed = len(copied), 0
        self._statistics = ShardStatistics()
        self._earlier_versions: dict[str, set[str]] = collections.defaultdict(set)

    def append(self, rows: Sequence[int], values: Mapping[str, NDArray[Any]]) -> None:
        """Append samples, and before each the copied ones that come first; see ``ShardWriter.append``.

        Raises:
            IntegrityError: an object of the earlier cache is damaged.
        """
        start = 0
        for position, row in enumerate(rows):
            if self._pending and self._pending[0][0] < row:
                self._append(rows[start:position], {name: array[start:position] for name, array in values.items()})
                self._fill(row)
                start = position
        self._append(rows[start:], {name: array[start:] for name, array in values.items()})
        self._computed += len(rows)

    def commit(self, *, statistics: Mapping[str, float], versions: Mapping[str, str]) -> Receipt:
        """Append the remaining copies, then commit; see ``ShardWriter.commit``.

        Args:
            statistics: means over the computed samples; the receipt has those over all samples.
            versions: of this run; where the earlier cache has others, the receipt names them as ``copied-...``.

        Raises:
            IntegrityError: an object of the earlier cache is damaged.
        """
        self._fill(None)
        copied, weight = self._statistics.document(), self._copied / max(self._copied + self._computed, 1)
        means = {
            name: round(weight * copied.get(name, value) + (1 - weight) * value, 6)
            for name, value in statistics.items()
        }
        others = {name: found - {versions.get(name)} for name, found in self._earlier_versions.items()}
        earlier = {f"copied-{name}": ", ".join(sorted(found)) for name, found in others.items() if found}
        return super().commit(statistics=means, versions={**versions, **earlier})

    def _append(self, rows: Sequence[int], values: Mapping[str, NDArray[Any]]) -> None:
        if len(rows):
            super().append(rows, values)

    def _fill(self, before: int | None) -> None:
        """Append the pending copies of rows below ``before``, all without it."""
        ready = [pair for pair in self._pending[:BATCH_SIZE] if before is None or pair[0] < before]
        while ready:
            del self._pending[: len(ready)]
            self._copy(ready)
            ready = [pair for pair in self._pending[:BATCH_SIZE] if before is None or pair[0] < before]

    def _copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        rows, held = [row for row, _ in pairs], [place for _, place in pairs]
        values = self._samples.read(self._seed, held)
        super().append(rows, values)
        receipts = [self._samples.receipt(self._seed, place) for place in held]
        share = float(np.mean([receipt.statistics.get("saturated_share", 0.0) for receipt in receipts]))
        self._statistics.add(values, share, self._width)
        for receipt in receipts:
            for name, version in receipt.versions.items():
                self._earlier_versions[name].add(version)
