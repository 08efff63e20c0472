"""Facts of a complete or incomplete cache, from its manifest and receipts alone."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookonce.cache.committed import receipt_identity
from lookonce.cache.containers import container_of
from lookonce.cache.layout import CacheLayout, load_json
from lookonce.cache.show.facts import CacheFacts, HoleFacts, SeedFacts
from lookonce.cache.show.klt_facts import klt_facts
from lookonce.shared.errors import AccessError, SchemaError
from lookonce.storage_schemas.arrays import target_shape
from lookonce.storage_schemas.manifest import Manifest

FIRST_HOLES = 5
"""Number of holes that are listed with their reasons."""


def describe_cache(root: Path) -> CacheFacts:
    """Facts of a cache.

    Receipts are not validated, which would take most of the time; ``feature-cache verify`` validates them. A file that
    is not a receipt, or belongs to another cache, counts as unusable and its shard as missing. A receipt that cannot be
    accessed is listed in ``not_readable``, with the reason.

    Args:
        root: the cache folder; it may be incomplete.

    Raises:
        CacheError: there is no cache at ``root``.
        SchemaError: its manifest is invalid.
        AccessError: the manifest cannot be accessed.
    """
    layout = CacheLayout(root)
    manifest = layout.load_manifest()
    tally = _Tally(layout, manifest)
    seeds = [tally.add_seed(seed) for seed in layout.seeds()]
    recipe, encoding = manifest.recipe, manifest.encoding
    klt = klt_facts(encoding, target_shape(recipe))
    return CacheFacts(
        cache=str(root),
        complete=bool(seeds) and all(seed.complete for seed in seeds),
        teacher=recipe.document()["teacher"],
        precision=encoding.precision,
        view=recipe.document()["view"],
        patch_size=recipe.patch_size,
        patches=recipe.patches,
        tokens=recipe.tokens.document(),
        stored_patches=recipe.stored_patches,
        importance=recipe.importance,
        first_token=recipe.teacher.first_token,
        samples=manifest.samples,
        shard_size=manifest.shard_size,
        seeds=seeds,
        views=tally.views,
        holes=HoleFacts(count=tally.hole_count, first=tally.first_holes),
        unusable_receipts=tally.unusable,
        not_readable=tally.not_readable,
        classes=list(manifest.classes),
        pixels=manifest.pixels,
        moments=manifest.moments,
        bytes=sum(tally.bytes.values()) + (klt.object_bytes if klt is not None else 0),
        bytes_by_array=dict(tally.bytes),
        bytes_a_view={name: total / max(tally.views, 1) for name, total in tally.bytes.items()},
        statistics=tally.mean_statistics(),
        fingerprint=recipe.fingerprint,
        encoding=encoding.digest,
        schema_version=manifest.schema_version,
        klt=klt,
        container=manifest.container,
        created_with=dict(manifest.created_with),
        versions={name: sorted(found) for name, found in sorted(tally.versions.items())},
    )


class _Tally:
    """Sums over receipts."""

    def __init__(self, layout: CacheLayout, manifest: Manifest) -> None:
        self._layout, self._manifest = layout, manifest
        self.views = self.hole_count = self.unusable = 0
        self.not_readable: list[str] = []
        self.first_holes: list[dict[str, Any]] = []
        self.bytes = dict.fromkeys(container_of(manifest).object_paths(manifest, 0, 0), 0)
        self.versions: collections.defaultdict[str, set[str]] = collections.defaultdict(set)
        self._statistics: collections.defaultdict[str, list[float]] = collections.defaultdict(list)

    def add_seed(self, seed: int) -> SeedFacts:
        """Add the receipts of a seed; return its number of shards."""
        usable = sum(self._add_receipt(seed, shard) for shard in self._layout.receipted_shards(seed))
        total = self._manifest.shard_count
        return SeedFacts(seed=seed, shards=usable, of_shards=total, complete=usable == total)

    def _add_receipt(self, seed: int, shard: int) -> bool:
        try:
            receipt = load_json(self._layout.receipt_file(seed, shard))
            usable = shard < self._manifest.shard_count and all(
                receipt[field] == value for field, value in receipt_identity(self._manifest, shard).items()
            )
            if usable:
                self._add(seed, receipt)
        except AccessError as error:
            self.not_readable.append(str(error))
            return False
        except (SchemaError, LookupError, TypeError, AttributeError):  # not JSON, or not a receipt
            usable = False
        self.unusable += not usable
        return usable

    def _add(self, seed: int, receipt: Mapping[str, Any]) -> None:
        sizes = [(stored["array"], int(stored["bytes"])) for stored in receipt["objects"]]
        holes = [{"seed": seed, **hole} for hole in receipt["holes"]]
        views = int(receipt["samples"]) - len(holes)
        statistics = {name: float(value) for name, value in receipt["statistics"].items()}
        versions = {name: str(version) for name, version in receipt["versions"].items()}
        for name, size in sizes:  # nothing can fail from here on, so a receipt counts completely or not at all
            self.bytes[name] = self.bytes.get(name, 0) + size
        self.views += views
        self.hole_count += len(holes)
        self.first_holes += holes[: FIRST_HOLES - len(self.first_holes)]
        for name, value in statistics.items():
            self._statistics[name].append(value)
        for name, version in versions.items():
            self.versions[name].add(version)

    def mean_statistics(self) -> dict[str, float]:
        """Each statistic's mean over the receipts."""
        return {name: sum(values) / len(values) for name, values in sorted(self._statistics.items())}
