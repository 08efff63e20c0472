"""Sizes before writing are those after it: every file, both containers, every precision and token subset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookonce.cache.containers import CONTAINERS
from lookonce.cache.layout import CacheLayout
from lookonce.cache.write import sizes
from lookonce.cache.write.sizes import cache_bytes, key_bytes
from lookonce.shared.sources import ListingEntry
from lookonce.storage_schemas.arrays import JPEG, MOMENTS
from lookonce.storage_schemas.precision import PRECISIONS
from lookonce.storage_schemas.tokens import AllTokens, TopTokens, VisibleTokens

SUBSETS = [AllTokens(), VisibleTokens(mask="random", mask_ratio=0.7), TopTokens(share=0.3)]


def written(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def object_bytes(root: Path) -> int:
    layout = CacheLayout(root)
    receipts = [layout.load_receipt(seed, shard) for seed in layout.seeds() for shard in layout.receipted_shards(seed)]
    return sum(receipt.content_bytes for receipt in receipts)


def planned_keys(manifest: Any, seeds: Any, arrays: Any) -> int:
    entries = [ListingEntry(key, label, 0) for key, label in zip(arrays["key"], arrays["label"], strict=True)]
    return key_bytes(manifest, seeds, entries)


@given(
    container=st.sampled_from(list(CONTAINERS)),
    precision=st.sampled_from(list(PRECISIONS)),
    tokens=st.sampled_from(SUBSETS),
    store_pixels=st.booleans(),
    moments=st.sampled_from(MOMENTS),
    jpeg_quality=st.sampled_from([None, 90]),
    samples=st.integers(1, 9),
    shard_size=st.integers(1, 7),
    layers=st.integers(1, 3),
    width=st.integers(1, 21),
    seeds=st.sampled_from([(0,), (3, 12), (0, 1, 10000)]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sizes_are_what_is_written(make_manifest, fill_cache, tmp_path_factory, container, seeds, **changes) -> None:
    root = tmp_path_factory.mktemp("sizes") / "cache"
    manifest = make_manifest(container=container, **changes)
    written_arrays = fill_cache(root, manifest, seeds=seeds)
    keys = planned_keys(manifest, seeds, written_arrays[seeds[0]])
    jpegs = [len(jpeg) for seed in seeds for jpeg in written_arrays[seed].get(JPEG, ())]
    planned = cache_bytes(manifest, seeds, keys=keys, statistics=["feature_norm"], jpegs=jpegs)
    assert planned.views == manifest.samples * len(seeds)
    assert planned.objects == object_bytes(root)
    assert planned.total == pytest.approx(written(root), rel=0.02)
    assert planned.documents == pytest.approx(written(root) - planned.objects, rel=0.02)
    assert planned.per_view == planned.total / planned.views


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_hole_only_makes_it_smaller(make_manifest, fill_cache, tmp_path: Path, container: str) -> None:
    manifest = make_manifest(container=container)
    arrays = fill_cache(tmp_path / "c", manifest, holes=(1,))[0]
    planned = cache_bytes(manifest, (0,), keys=planned_keys(manifest, (0,), arrays))
    assert object_bytes(tmp_path / "c") < planned.objects


@pytest.mark.parametrize("container", CONTAINERS)
def test_long_keys_count(make_manifest, container: str) -> None:
    """A tar member's header and blocks follow the length of the JSON in it; a zarr column holds the letters."""
    manifest = make_manifest(container=container)
    short = key_bytes(manifest, (0,), [ListingEntry("a", 0, 0)] * 5)
    long = key_bytes(manifest, (0,), [ListingEntry("a", 0, 0)] * 4 + [ListingEntry("ä" * 600, 0, 0)])
    assert long - short == {"zarr": 1199, "webdataset": 1024}[container]


@pytest.mark.parametrize("container", CONTAINERS)
def test_some_keys_speak_for_a_large_listing(make_manifest, container: str, monkeypatch) -> None:
    manifest = make_manifest(container=container)
    entries = [ListingEntry(f"{'k' * (row % 5)}{row:04d}", row % 3, 0) for row in range(1001)]
    exact = key_bytes(manifest, (0, 12), entries)
    monkeypatch.setattr(sizes, "MOST_KEYS", 150)
    assert key_bytes(manifest, (0, 12), entries) == pytest.approx(exact, rel=0.01)
