"""Converts one shard: reads stored samples, selects tokens, encodes targets again if needed, and appends them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.write.shard_writer import ShardWriter
from lookonce.cache.write.stored_moments import with_stored_moments
from lookonce.cache.write.stored_patches import stored_patch_ids
from lookonce.storage_schemas.arrays import MOMENT_ARRAYS, target_shape
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.precision import get_precision
from lookonce.storage_schemas.receipt import Hole, Receipt

BATCH_SIZE = 32
"""Samples that are read, encoded and appended at a time."""


class ShardConverter:
    """Writes shards of a converted cache. Thread-safe.

    Args:
        reader: reader of the source.
        out: folder of the converted cache, with the metadata of its seeds.
        manifest: manifest of the converted cache.
    """

    def __init__(self, reader: CacheReader, out: Path, manifest: Manifest) -> None:
        self._reader, self._out, self._manifest = reader, out, manifest
        self._codec = get_precision(manifest.encoding.precision)
        self._encodes = manifest.encoding.digest != reader.manifest.encoding.digest
        self._narrows = manifest.recipe.tokens != reader.manifest.recipe.tokens
        encoded = get_precision(reader.manifest.encoding.precision).arrays(target_shape(reader.manifest.recipe))
        left_out = {array.name for array in encoded} if self._encodes else set[str]()
        if manifest.moments == "none":
            left_out |= set(MOMENT_ARRAYS)
        self._streamed = [
            spec.name for spec in reader.manifest.arrays if spec.chunking == "sample" and spec.name not in left_out
        ]

    def convert(self, place: tuple[int, int]) -> Receipt:
        """Write one (seed, shard).

        Raises:
            IntegrityError: an object of the source is damaged.
            NumericalError: a moment of a token is too large for float16.
            StorageError: the operating system refused the write.
        """
        seed, shard = place
        rows, reader = self._manifest.shard_rows(shard), self._reader
        sources = self._sources(seed, rows)
        holes = {hole.sample: hole for receipt in sources for hole in receipt.holes if hole.sample in rows}
        keys = [str(key) for key in reader.column("key", seed, rows)]
        labels = [int(label) for label in reader.column("label", seed, rows)]
        views = reader.column("view", seed, rows)
        present = [row for row in rows if row not in holes]
        saturated = 0.0
        with ShardWriter(self._out, self._manifest, seed=seed, shard=shard, keys=keys, labels=labels) as writer:
            for hole in holes.values():
                writer.leave_out(hole.sample, hole.reason)
            for start in range(0, len(present), BATCH_SIZE):
                chosen = present[start : start + BATCH_SIZE]
                values, share = self._batch(seed, chosen, [keys[row - rows.start] for row in chosen])
                writer.append(chosen, {**values, "view": views[[row - rows.start for row in chosen]]})
                saturated += share * len(chosen)
            return writer.commit(
                statistics=self._statistics(sources, rows, holes, saturated),
                versions={name: version for receipt in sources for name, version in receipt.versions.items()},
            )

    def _sources(self, seed: int, rows: range) -> list[Receipt]:
        """Receipts of the source's shards that contain the rows."""
        size = self._reader.manifest.shard_size
        return self._reader.receipts(seed)[rows.start // size : (rows.stop - 1) // size + 1]

    def _batch(self, seed: int, rows: list[int], keys: list[str]) -> tuple[dict[str, NDArray[Any]], float]:
        """Arrays of the rows, and the share of target values that saturate."""
        seeds, kept = [seed] * len(rows), dict[str, NDArray[np.int64]]()
        values: dict[str, NDArray[Any]] = {}
        if self._narrows:
            importance = self._reader.read("importance", seeds, rows)
            ids = stored_patch_ids(self._manifest.recipe.tokens, importance, keys, seed)
            values["patch_ids"] = ids.astype(np.uint16)
            tokens = np.pad(ids + 1, ((0, 0), (1, 0)))
            kept = {"targets": tokens, "target_mean": tokens, "target_std": tokens, "pixels": ids}
        values |= {name: self._reader.read(name, seeds, rows, kept.get(name)) for name in self._streamed}
        values = with_stored_moments(values, self._manifest, keys, seed)
        if not self._encodes:
            return values, 0.0
        parameters = self._manifest.encoding.parameters
        decoded = self._reader.read_targets(seeds, rows, kept.get("targets"))
        values |= self._codec.encode_views(decoded, parameters)
        return values, self._codec.outside_share(decoded, parameters)

    def _statistics(
        self, sources: list[Receipt], rows: range, holes: dict[int, Hole], saturated: float
    ) -> dict[str, float]:
        """Means of the source's statistics, weighted by the samples from each of its shards."""
        weights = [_present_in(receipt, rows) for receipt in sources]
        totals: dict[str, float] = {}
        for receipt, weight in zip(sources, weights, strict=True):
            for name, value in receipt.statistics.items():
                totals[name] = totals.get(name, 0.0) + value * weight
        count = sum(weights)
        if len(sources) == 1:  # exactly the source's numbers
            statistics = dict(sources[0].statistics)
        else:
            statistics = {name: total / max(count, 1) for name, total in totals.items()}
        if self._encodes and "saturated_share" in statistics:
            statistics["saturated_share"] = saturated / max(count, 1)
        return statistics


def _present_in(receipt: Receipt, rows: range) -> int:
    """Number of samples of a source's shard that lie in the rows and are not holes."""
    first, last = max(receipt.first_sample, rows.start), min(receipt.first_sample + receipt.samples, rows.stop)
    return last - first - sum(first <= hole.sample < last for hole in receipt.holes)
