"""Samples of a cache by key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.samples_by_key import SamplesByKey
from lookonce.cache.write.create import create_cache, prepare_seed
from lookonce.cache.write.shard_writer import ShardWriter

KEYS = ["Z.jpg", "a/b.jpg", "a.jpg", "é.jpg", "a0.jpg", "\U0001f40d.jpg", "\uffee.jpg"]


@pytest.fixture(params=["zarr", "webdataset"])
def samples(request: pytest.FixtureRequest, make_manifest, tmp_path: Path) -> SamplesByKey:
    """Seven samples in shards of two, the view of row r beginning with r; row 3 is a hole under seed 1."""
    manifest, keys = make_manifest(samples=7, shard_size=2, container=request.param), sorted(KEYS)
    create_cache(tmp_path, manifest)
    for seed in (0, 1):
        prepare_seed(tmp_path, manifest, seed)
        for shard in range(manifest.shard_count):
            rows = manifest.shard_rows(shard)
            place = {"seed": seed, "shard": shard, "keys": keys[rows.start : rows.stop], "labels": [0] * len(rows)}
            with ShardWriter(tmp_path, manifest, **place) as writer:
                for row in rows:
                    if (seed, row) == (1, 3):
                        writer.leave_out(row, "bad")
                        continue
                    values = {
                        spec.name: np.zeros((1, *spec.sample_shape), spec.numpy_dtype)
                        for spec in manifest.arrays
                        if spec.name not in ("key", "label")
                    }
                    values["view"][0, 0] = 10 * seed + row
                    writer.append([row], values)
                writer.commit(statistics={}, versions={})
    return SamplesByKey(CacheReader(tmp_path))


def test_every_key_has_its_row(samples: SamplesByKey) -> None:
    assert [samples.row(key) for key in sorted(KEYS)] == list(range(7))


@pytest.mark.parametrize("key", ["", "A", "Z.jpg ", "a", "a1.jpg", "\U0001f40e.jpg", "zzz"])
def test_other_keys_have_none(samples: SamplesByKey, key: str) -> None:
    assert samples.row(key) is None
    assert samples.present(key, [0, 1]) is None


def test_a_hole_is_not_present(samples: SamplesByKey) -> None:
    key = sorted(KEYS)[3]
    assert (samples.present(key, [0]), samples.present(key, [1]), samples.present(key, [0, 1])) == (3, None, None)


def test_views_are_those_of_their_rows(samples: SamplesByKey) -> None:
    assert samples.views(1, [6, 0, 5])[:, 0].tolist() == [16, 10, 15]
