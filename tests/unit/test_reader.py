"""CacheReader: what it gives, what it refuses, and that it may be shared by threads and pickled."""

from __future__ import annotations

import json
import mmap
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lookonce.cache.committed import is_committed, require_sizes
from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.mapped_objects import MappedObject, MapPool
from lookonce.cache.read.reader import CacheReader
from lookonce.shared.errors import CacheError, CacheMismatchError, IncompleteCacheError, IntegrityError, SchemaError
from lookonce.shared.files.atomic import write_json
from lookonce.storage_schemas.problems import sealed
from lookonce.storage_schemas.receipt import StoredObject

TARGETS = "seed-0000/targets/c/0/0/0/0"


@pytest.fixture
def cache(make_manifest, fill_cache, tmp_path: Path) -> Path:
    fill_cache(tmp_path / "c", make_manifest(), seeds=(0, 1), holes=(1,))
    return tmp_path / "c"


@pytest.fixture
def many_shards(make_manifest, fill_cache, tmp_path: Path):
    manifest = make_manifest(samples=23, shard_size=2)
    assert manifest.shard_count == 12
    return tmp_path / "many", fill_cache(tmp_path / "many", manifest, seeds=(0, 12))


def flip_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


def test_a_folder_without_manifest_is_no_cache(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"no manifest\.json here"):
        CacheReader(tmp_path)
    with pytest.raises(CacheError, match="does not exist"):
        CacheReader(tmp_path / "absent")


def test_a_folder_of_caches_names_them(cache: Path) -> None:
    with pytest.raises(CacheError, match="the folder contains caches: c"):
        CacheReader(cache.parent)


@pytest.mark.parametrize("name", ["manifest.json", "receipts/seed-0001/shard-00002.json"])
def test_unknown_schema_versions_are_refused_by_number(cache: Path, name: str) -> None:
    document = json.loads((cache / name).read_text())
    (cache / name).write_text(json.dumps({**document, "schema_version": 3}))
    with pytest.raises(SchemaError, match="schema version 3 is not known"):
        CacheReader(cache)


def test_incomplete_seeds_are_refused_and_others_can_be_chosen(cache: Path) -> None:
    (cache / "receipts/seed-0001/shard-00001.json").unlink()
    with pytest.raises(IncompleteCacheError, match=r"seed 1 has no receipt for 1 of 3 shards \(1\)"):
        CacheReader(cache)
    assert CacheReader(cache, seeds=[0]).seeds == (0,)
    with pytest.raises(IncompleteCacheError, match="this cache has no seed 5, 7, it has 0, 1; choose"):
        CacheReader(cache, seeds=[0, 5, 7])
    shutil.rmtree(cache / "receipts")
    with pytest.raises(IncompleteCacheError, match="no shard has a receipt"):
        CacheReader(cache)


def test_receipts_of_another_cache_or_place_are_refused(cache: Path) -> None:
    path = cache / "receipts/seed-0000/shard-00000.json"
    document = json.loads(path.read_text())
    write_json(path, sealed({**document, "fingerprint": "sha256:" + "f" * 64}))
    with pytest.raises(IntegrityError, match="belongs to another cache"):
        CacheReader(cache)
    shutil.copy(cache / "receipts/seed-0001/shard-00000.json", path)
    with pytest.raises(SchemaError, match="receipt of seed 1, shard 0; expected seed 0"):
        CacheReader(cache)


def test_holes_are_not_rows_and_cannot_be_read(cache: Path) -> None:
    reader = CacheReader(cache)
    assert reader.rows(0).tolist() == [0, 2, 3, 4]
    assert [len(receipt.holes) for receipt in reader.receipts(1)] == [1, 0, 0]
    with pytest.raises(IntegrityError, match="row 1 of seed 1 is a hole"):
        reader.read("targets", [0, 1], [0, 1])


@pytest.mark.parametrize("check", ["first-use", "never"])
def test_truncated_and_missing_objects_are_refused_whatever_is_checked(cache: Path, check) -> None:
    path = cache / TARGETS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"targets/c/0.*its receipt lists"):
        CacheReader(cache, check=check).read("targets", [0], [0])
    path.unlink()
    with pytest.raises(IntegrityError, match=r"targets/c/0.*no such file"):
        CacheReader(cache, check=check).read("targets", [0], [0])


def test_a_flipped_byte_is_refused_on_first_use_and_passed_without_checks(cache: Path) -> None:
    before = CacheReader(cache).read("targets", [0], [0])
    flip_byte(cache / TARGETS, 0)
    with pytest.raises(IntegrityError, match=r"targets/c/0.*digest"):
        CacheReader(cache).read("targets", [0], [0])
    after = CacheReader(cache, check="never").read("targets", [0], [0])
    assert (after != before).sum() == 1


def test_a_damaged_index_is_refused_even_without_digests(cache: Path) -> None:
    flip_byte(cache / TARGETS, -1)
    with pytest.raises(IntegrityError, match="shard index is damaged"):
        CacheReader(cache, check="never").read("targets", [0], [0])


@pytest.mark.parametrize("position", [0, 4, 10])
def test_broken_strings_are_refused_even_without_digests(cache: Path, position: int) -> None:
    flip_byte(cache / "seed-0000/key/c/0", position)
    with pytest.raises(IntegrityError, match="key/c/0"):
        CacheReader(cache, check="never").column("key", 0)


def test_shards_keep_numeric_order(many_shards) -> None:
    root, written = many_shards
    reader = CacheReader(root)
    rows = np.arange(23)
    for seed in (0, 12):
        for name in ("targets", "importance", "pixels"):
            np.testing.assert_array_equal(reader.read(name, [seed] * 23, rows), written[seed][name])
        for name in ("key", "label", "view"):
            np.testing.assert_array_equal(reader.column(name, seed), written[seed][name])
    assert reader.layout.seeds() == (0, 12)
    assert reader.layout.receipted_shards(12) == tuple(range(12))


def test_tokens_are_gathered_per_sample(many_shards) -> None:
    root, written = many_shards
    tokens = np.array([[0, 16, 3], [5, 5, 1]])
    got = CacheReader(root).read("targets", [12, 0], [22, 7], tokens)
    np.testing.assert_array_equal(got, [written[12]["targets"][22][tokens[0]], written[0]["targets"][7][tokens[1]]])


@pytest.mark.parametrize("position", [-1, 17])
def test_tokens_that_are_not_there_are_refused(many_shards, position: int) -> None:
    reader = CacheReader(many_shards[0])
    with pytest.raises(ValueError, match="tokens must be 0 to 16 for array 'targets'"):
        reader.read("targets", [0], [0], np.array([[0, position]]))


def test_no_samples_are_an_empty_array(many_shards) -> None:
    reader = CacheReader(many_shards[0])
    assert reader.read("targets", [], []).shape == (0, 17, 2, 6)
    assert reader.read("targets", [0], [0], np.zeros((1, 0), np.int64)).shape == (1, 0, 2, 6)


def test_out_buffers_are_filled_in_place_and_misfits_refused(many_shards) -> None:
    root, written = many_shards
    reader = CacheReader(root)
    out = np.full((2, 16), np.nan, np.float32)
    assert reader.read("importance", [0, 0], [20, 3], out=out) is out
    np.testing.assert_array_equal(out, written[0]["importance"][[20, 3]])
    wide = np.empty((2, 32), np.float32)
    for misfit in (out[:1], out.astype(np.float64), wide[:, ::2], np.empty((2, 17), np.float32)):
        with pytest.raises(ValueError, match="out must be C-contiguous"):
            reader.read("importance", [0, 0], [20, 3], out=misfit)


def test_a_pickled_reader_reads_the_same(many_shards) -> None:
    root, written = many_shards
    reader = CacheReader(root)
    reader.read("targets", [0], [0])
    state = pickle.dumps(reader)
    assert len(state) < 100_000  # receipts, never mapped content
    copy = pickle.loads(state)
    np.testing.assert_array_equal(copy.read("targets", [12], [21]), written[12]["targets"][21:22])


def test_two_threads_with_few_maps_read_what_was_written(many_shards) -> None:
    root, written = many_shards
    reader = CacheReader(root)
    reader._pool = MapPool(limit=3)

    def read(thread: int) -> int:
        generator = np.random.default_rng(thread)
        for _ in range(150):
            rows, seeds = generator.integers(0, 23, 4), generator.choice([0, 12], 4)
            got = reader.read("targets", seeds, rows)
            for position, (seed, row) in enumerate(zip(seeds, rows, strict=True)):
                np.testing.assert_array_equal(got[position], written[seed]["targets"][row])
        return 150

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(read, range(2))) == 300
    assert len(reader._pool) == 3


def test_the_pool_closes_the_least_recently_used() -> None:
    pool, opened = MapPool(limit=2), []

    def get(shard: int) -> None:
        if pool.find(("targets", 0, shard)) is None:
            opened.append(shard)
            pool.add(("targets", 0, shard), MappedObject(mmap.mmap(-1, 1), np.zeros(1, np.uint8), {}))

    for shard in (1, 2, 1, 3, 1, 2):
        get(shard)
    assert opened == [1, 2, 3, 2]


def test_blocks_the_cache_lacks_are_named(cache: Path) -> None:
    reader = CacheReader(cache)
    assert reader.layer_positions([4, 3]) == [1, 0]
    with pytest.raises(CacheMismatchError, match=r"blocks 1, 2 are not in this cache, which has blocks 3, 4 of 4"):
        reader.layer_positions([1, 3, 2])


def test_decoding_some_layers_uses_their_calibration(cache: Path) -> None:
    reader = CacheReader(cache)
    stored = reader.read("targets", [0], [0])
    np.testing.assert_array_equal(reader.decode(stored[:, :, 1:], [1]), reader.decode(stored)[:, :, 1:])
    parameters = reader.manifest.encoding.parameters
    expected = stored.astype(np.float32) * parameters["scale"] + parameters["offset"]
    np.testing.assert_array_equal(reader.decode(stored), expected)


@pytest.mark.parametrize("container", ["zarr", "webdataset"])
def test_a_seed_in_shards_of_another_size_is_refused(make_manifest, fill_cache, tmp_path: Path, container: str) -> None:
    """Without calibration, caches of the same content differ in nothing but the rows of their shards."""
    one, other = tmp_path / "one", tmp_path / "other"
    fill_cache(one, make_manifest(samples=12, shard_size=6, precision="fp16", container=container), seeds=(0,))
    fill_cache(other, make_manifest(samples=12, shard_size=4, precision="fp16", container=container), seeds=(1,))
    for part in ("", "receipts"):
        shutil.copytree(other / part / "seed-0001", one / part / "seed-0001")
    with pytest.raises(IntegrityError, match=r"shard-00000\.json: .*another cache \(samples is 4, expected 6\)"):
        CacheReader(one)
    layout, manifest = CacheLayout(one), CacheReader(one, seeds=[0]).manifest
    assert [is_committed(layout, manifest, seed, shard) for seed in (0, 1) for shard in (0, 1)] == [True] * 2 + [
        False
    ] * 2


class TestSizesAtTheStart:
    """What is missing is found before the first step, not when it is read."""

    def test_a_missing_or_cut_object_is_named(self, training_cache: Callable[..., Path]) -> None:
        root = training_cache()
        CacheReader(root)
        objects = sorted(path for path in (root / "seed-0001" / "targets" / "c").rglob("*") if path.is_file())
        size = objects[2].stat().st_size
        os.truncate(objects[2], size - 1)
        with pytest.raises(IntegrityError, match=rf"{objects[2]} .*: {size - 1} bytes, its receipt lists {size} bytes"):
            CacheReader(root)
        objects[1].unlink()
        with pytest.raises(IntegrityError, match=rf"{objects[1]} .*no such file.*2 of 54 objects .*; copy it"):
            CacheReader(root)
        CacheReader(root, seeds=[0])  # what is not wanted is not looked at

    def test_ten_thousand_take_a_second(self, tmp_path: Path) -> None:
        objects = [StoredObject(array="a", path=f"c/{number}", bytes=0, digest="") for number in range(10_000)]
        (tmp_path / "c").mkdir()
        for stored in objects:
            (tmp_path / stored.path).touch()
        receipt = SimpleNamespace(objects=objects)
        times = []
        for _ in range(3):
            started = sum(os.times()[:2])
            require_sizes(tmp_path, [receipt])  # type: ignore[list-item]
            times.append(sum(os.times()[:2]) - started)
        assert min(times) < 2, "processor time, as tests run beside others"
