"""Samples of an earlier cache that equal those of the new one: found, and merged with the computed samples."""

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
from lookonce.cache.write.stored_moments import with_stored_moments
from lookonce.extract.sanity import ShardStatistics
from lookonce.extract.views.image_views import ViewProducer
from lookonce.shared.patches import patchify
from lookonce.shared.sources import ListingEntry
from lookonce.shared.views import pixel_digest
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt

BATCH_SIZE = 32
"""Samples copied at a time."""


class CopiedSamples:
    """Finds the rows of a shard that can be copied, and reads them; thread-safe.

    Args:
        reader: the earlier cache, with the same encoding.
        manifest: of the new cache.
        checker: makes views from the images: a sample is copied only if the pixels of its views have the stored
            digests. None: the images are known to be unchanged.
    """

    def __init__(self, reader: CacheReader, manifest: Manifest, checker: ViewProducer | None) -> None:
        self._reader, self._manifest, self._checker = reader, manifest, checker
        self._samples = SamplesByKey(reader)
        self._arrays = [spec.name for spec in manifest.arrays if spec.chunking == "sample"]

    def find(
        self, rows: Sequence[int], entries: Sequence[ListingEntry], seeds: Sequence[int], threads: Executor
    ) -> dict[int, int]:
        """Rows that can be copied for all of ``seeds``, and their rows in the earlier cache.

        Args:
            rows: of the new cache.
            entries: their listing entries, of the same length.
            seeds: augmentation seeds.
            threads: check the images.

        Raises:
            IntegrityError: an object of the earlier cache is damaged.
            SourceError: an image to check is gone.
        """
        if not set(seeds) <= set(self._reader.seeds):
            return {}
        found = threads.map(lambda row, entry: self._find(row, entry, seeds), rows, entries)
        return {row: earlier_row for row, earlier_row in zip(rows, found, strict=True) if earlier_row is not None}

    def _find(self, row: int, entry: ListingEntry, seeds: Sequence[int]) -> int | None:
        earlier_row = self._samples.present(entry.key, seeds)
        if earlier_row is None or self._checker is None:
            return earlier_row
        views = self._checker.views(row, entry, seeds)
        if views.pixels is None:
            return None
        patches = patchify(views.pixels, self._manifest.recipe.patch_size)
        digests = np.stack([pixel_digest(view) for view in patches])
        stored = self._reader.read("pixel_digest", seeds, [earlier_row] * len(seeds))
        return earlier_row if np.array_equal(digests, stored) else None

    def read(self, seed: int, rows: Sequence[int]) -> dict[str, NDArray[Any]]:
        """All streamed arrays of rows of the earlier cache.

        Raises:
            IntegrityError: an object of the earlier cache is damaged.
            NumericalError: a moment of a token is too large for the new cache's float16.
        """
        values = {name: self._reader.read(name, [seed] * len(rows), rows) for name in self._arrays}
        values["view"] = self._samples.views(seed, rows)
        keys = [f"row {row} of {self._reader.root}" for row in rows]
        return with_stored_moments(values, self._manifest, keys, seed)

    def receipt(self, seed: int, row: int) -> Receipt:
        """The receipt of the shard with a row of the earlier cache."""
        return self._reader.receipts(seed)[row // self._reader.manifest.shard_size]


class MergingWriter(ShardWriter):
    """A shard writer that merges copied samples with the appended ones, in row order.

    Args:
        root: the new cache.
        manifest: of the new cache.
        seed: augmentation seed.
        shard: number of the shard.
        keys: of all rows of the shard.
        labels: of all rows of the shard.
        samples: reads the samples to copy.
        copied: row -> row in the earlier cache, of the samples to copy; these rows are not appended or left out.
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
        """Append samples, each after the copied samples with lower rows; see ``ShardWriter.append``.

        Raises:
            IntegrityError: an object of the earlier cache is damaged.
        """
        start = 0
        for position, row in enumerate(rows):
            if self._pending and self._pending[0][0] < row:
                self._append(rows[start:position], {name: array[start:position] for name, array in values.items()})
                self._append_copies(row)
                start = position
        self._append(rows[start:], {name: array[start:] for name, array in values.items()})
        self._computed += len(rows)

    def commit(self, *, statistics: Mapping[str, float], versions: Mapping[str, str]) -> Receipt:
        """Append the remaining copies, then commit; see ``ShardWriter.commit``.

        Args:
            statistics: means over the computed samples; the receipt stores means over all samples.
            versions: of this run; the receipt stores differing versions of the earlier cache as ``copied-...``.

        Raises:
            IntegrityError: an object of the earlier cache is damaged.
        """
        self._append_copies(None)
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

    def _append_copies(self, before: int | None) -> None:
        """Append the pending copies of rows below ``before``; all of them if it is None."""
        ready = [pair for pair in self._pending[:BATCH_SIZE] if before is None or pair[0] < before]
        while ready:
            del self._pending[: len(ready)]
            self._copy(ready)
            ready = [pair for pair in self._pending[:BATCH_SIZE] if before is None or pair[0] < before]

    def _copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        rows, earlier_rows = [row for row, _ in pairs], [earlier_row for _, earlier_row in pairs]
        values = self._samples.read(self._seed, earlier_rows)
        super().append(rows, values)
        receipts = [self._samples.receipt(self._seed, row) for row in earlier_rows]
        self._statistics.add(
            values, _mean_of(receipts, "saturated_share"), self._width, _mean_of(receipts, "feature_norm")
        )
        for receipt in receipts:
            for name, version in receipt.versions.items():
                self._earlier_versions[name].add(version)


def _mean_of(receipts: Sequence[Receipt], statistic: str) -> float:
    return float(np.mean([receipt.statistics.get(statistic, 0.0) for receipt in receipts]))
