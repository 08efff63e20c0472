"""Predicts the bytes of a cache by arithmetic; tests compare the prediction with written caches.

The prediction is the sum of ``st_size`` of all files below the cache folder: objects, manifest, receipts and zarr
metadata. Objects are exact if ``key_bytes`` is exact and every image can be read; a hole saves its sample. JPEGs are
estimated from those of some views. Receipts have the length of a typical one, up to a few bytes, because the digits of
their numbers vary.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lookonce.cache.containers import container_of
from lookonce.shared.canonical import digest_bytes
from lookonce.shared.files.atomic import json_bytes
from lookonce.shared.sources import ListingEntry
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt, StoredObject

MOST_KEYS = 100_000
"""Greatest number of samples whose keys are measured."""

_DIGEST = digest_bytes(b"")
_STATISTIC = 1.234567
"""Placeholder for a statistic of a receipt, which has six decimals."""


@dataclass(frozen=True, kw_only=True)
class CacheBytes:
    """Predicted size of a complete cache."""

    views: int
    """Samples times seeds."""
    objects: int
    """Bytes of the shards' objects."""
    documents: int
    """Bytes of manifest, receipts, zarr metadata, and the object of the encoding if there is one."""

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return self.objects + self.documents

    @property
    def per_view(self) -> float:
        """Bytes of all files divided by views."""
        return self.total / self.views


def cache_bytes(
    manifest: Manifest,
    seeds: Sequence[int],
    *,
    keys: int,
    statistics: Sequence[str] = (),
    jpegs: Sequence[int] = (),
) -> CacheBytes:
    """Size of a cache if every image can be read.

    Args:
        manifest: manifest of the cache; of its encoding only precision and shapes matter.
        seeds: augmentation seeds, at least one.
        keys: ``key_bytes`` of the same seeds, which are the same for every precision and token subset.
        statistics: names of the statistics in receipts.
        jpegs: bytes of the JPEGs of some views, whose mean stands for all, in a cache that stores them; without them,
            JPEGs do not count.
    """
    container = container_of(manifest)
    samples, shards = manifest.samples * len(seeds), manifest.shard_count * len(seeds)
    metadata = [container.seed_documents(manifest, seed) for seed in seeds]
    documents = [manifest.document(), *(document for found in metadata for document in found.values())]
    jpeg = sum(map(container.variable_bytes, jpegs)) / len(jpegs) if jpegs and manifest.pixels == "jpeg" else 0.0
    receipt = _typical_receipt(manifest, max(seeds), dict.fromkeys(statistics, _STATISTIC))
    return CacheBytes(
        views=samples,
        objects=samples * container.sample_bytes(manifest)
        + round(samples * jpeg)
        + shards * container.shard_bytes(manifest)
        + keys,
        documents=sum(len(json_bytes(document)) for document in documents)
        + shards * len(json_bytes(receipt.document()))
        + (len(manifest.encoding.object_content()) if manifest.encoding.apart else 0),
    )


def key_bytes(manifest: Manifest, seeds: Sequence[int], entries: Sequence[ListingEntry]) -> int:
    """Bytes of the samples' keys and labels in the objects of all seeds.

    They are exact up to ``MOST_KEYS`` samples, and beyond estimated from that many evenly spread ones.

    Args:
        manifest: manifest of the cache; only its container matters.
        seeds: augmentation seeds.
        entries: the whole listing.
    """
    container, rows = container_of(manifest), range(0, len(entries), -(-len(entries) // MOST_KEYS))
    alike = collections.defaultdict(list)  # seeds with the same number of digits need the same bytes
    for seed in seeds:
        alike[len(str(seed))].append(seed)
    found = 0
    for row in rows:
        entry = entries[row]
        found += sum(len(of) * container.key_bytes(row, entry.key, entry.label, of[0]) for of in alike.values())
    return found * len(entries) // len(rows)


def _typical_receipt(manifest: Manifest, seed: int, statistics: Mapping[str, float]) -> Receipt:
    shard = manifest.shard_count - 1
    container = container_of(manifest)
    size = container.sample_bytes(manifest) * manifest.shard_size
    paths = container.object_paths(manifest, seed, shard)
    return Receipt(
        fingerprint=manifest.recipe.fingerprint,
        encoding=manifest.encoding.digest,
        seed=seed,
        shard=shard,
        first_sample=manifest.shard_rows(shard).start,
        samples=manifest.shard_size,
        holes=(),
        objects=tuple(StoredObject(array=name, path=path, bytes=size, digest=_DIGEST) for name, path in paths.items()),
        statistics=dict(statistics),
        versions=dict(manifest.created_with),
    )
