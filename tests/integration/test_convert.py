"""feature-cache convert: round trips to the byte, fewer bits, other shard sizes, resuming, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookonce.cache.convert.conversion import convert_cache
from lookonce.cache.convert.request import ConversionRequest
from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.verify.verification import verify_cache
from lookonce.cache.write.create import exclusive_writer
from lookonce.commands.feature_cache import main
from lookonce.shared.errors import (
    BusyError,
    CacheError,
    IncompleteCacheError,
    IntegrityError,
    RecipeMismatchError,
    UsageError,
)
from lookonce.storage_schemas.precision import get_precision

HOLES = (1, 6)
STREAMED = ("targets", "target_mean", "target_std", "importance", "pixels", "pixel_digest")


@pytest.fixture
def source(make_manifest, fill_cache, tmp_path: Path) -> Path:
    fill_cache(tmp_path / "source", make_manifest(samples=11, shard_size=4), seeds=(0, 2), holes=HOLES)
    return tmp_path / "source"


def convert(source: Path, out: Path, **changes: Any) -> dict[str, Any]:
    result = convert_cache(source, out, ConversionRequest(**changes), workers=2).document()
    assert verify_cache(out, full=True, workers=2).whole
    return result


def digests(root: Path) -> dict[str, str]:
    layout = CacheLayout(root)
    shards = range(layout.load_manifest().shard_count)
    receipts = [layout.load_receipt(seed, shard) for seed in layout.seeds() for shard in shards]
    return {stored.path: stored.digest for receipt in receipts for stored in receipt.objects}


def receipt_rest(root: Path) -> list[tuple[Any, ...]]:
    layout = CacheLayout(root)
    shards = range(layout.load_manifest().shard_count)
    receipts = [layout.load_receipt(seed, shard) for seed in layout.seeds() for shard in shards]
    return [(r.fingerprint, r.encoding, r.holes, dict(r.statistics), dict(r.versions)) for r in receipts]


@pytest.mark.parametrize("precision", ["fp16", "int4", "klt1"])
def test_there_and_back_gives_the_same_bytes(make_manifest, fill_cache, tmp_path: Path, precision: str) -> None:
    source = tmp_path / "source"
    manifest = make_manifest(samples=11, shard_size=4, precision=precision)
    fill_cache(source, manifest, seeds=(0, 2), holes=HOLES)
    convert(source, tmp_path / "tars", container="webdataset")
    result = convert(tmp_path / "tars", tmp_path / "back", container="zarr")
    assert (result["shards"], result["shards_written"], result["seeds"]) == (6, 6, [0, 2])
    assert digests(tmp_path / "back") == digests(source)
    assert receipt_rest(tmp_path / "back") == receipt_rest(source) == receipt_rest(tmp_path / "tars")
    for name in ("manifest.json", *(path.relative_to(source) for path in source.glob("encoding/*"))):
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize("container", ["zarr", "webdataset"])
def test_another_shard_size_holds_the_same_samples(source: Path, tmp_path: Path, container: Any) -> None:
    convert(source, tmp_path / "out", container=container, shard_size=3)
    ours, theirs = CacheReader(tmp_path / "out"), CacheReader(source)
    rows = theirs.rows(2)
    assert rows.tolist() == ours.rows(2).tolist()
    for name in STREAMED:
        np.testing.assert_array_equal(ours.read(name, [2] * 9, rows), theirs.read(name, [2] * 9, rows))
    for name in ("key", "label", "view"):
        np.testing.assert_array_equal(ours.column(name, 2), theirs.column(name, 2))
    assert [receipt.statistics for receipt in ours.receipts(2)] == [{"feature_norm": 1.0}] * 4
    convert(tmp_path / "out", tmp_path / "back", container="zarr", shard_size=4)
    assert digests(tmp_path / "back") == digests(source)


def features(manifest: Any, seed: int) -> dict[str, Any]:
    """LayerNormed values with an outlier channel, encoded as the cache stores them."""
    generator = np.random.default_rng(seed)
    layers, width = len(manifest.recipe.teacher.blocks), manifest.recipe.teacher.width
    values = generator.normal(size=(manifest.samples, manifest.recipe.patches + 1, layers, width))
    values[..., 0] += 20
    codec = get_precision(manifest.encoding.precision)
    return {"targets": codec.encode(values.astype(np.float32), manifest.encoding.parameters)}


@pytest.mark.parametrize(
    ("start", "end", "most"), [("fp16", "int8", 0.03), ("fp16", "fp8-e4m3", 0.04), ("fp16", "int4", 0.13)]
)
def test_fewer_bits_stay_near(make_manifest, fill_cache, tmp_path: Path, start: str, end: str, most: float) -> None:
    manifest = make_manifest(samples=40, shard_size=16, precision=start, width=32)
    fill_cache(tmp_path / "c", manifest, make_arrays=features, holes=(3,))
    result = convert(tmp_path / "c", tmp_path / "out", precision=end)
    assert result["bytes"] < result["source_bytes"]
    ours, theirs = CacheReader(tmp_path / "out"), CacheReader(tmp_path / "c")
    rows = theirs.rows(0)
    new, old = (reader.decode(reader.read("targets", [0] * 39, rows))[..., 1:] for reader in (ours, theirs))
    assert 0 < np.linalg.norm(new - old) / np.linalg.norm(old) < most
    assert ours.manifest.recipe.fingerprint == theirs.manifest.recipe.fingerprint
    assert ours.manifest.encoding.digest != theirs.manifest.encoding.digest


@pytest.mark.parametrize(("start", "end"), [("int8", "fp16"), ("int8", "fp8-e4m3"), ("fp16", "bf16"), ("int4", "int8")])
def test_bits_are_never_added(make_manifest, fill_cache, tmp_path: Path, start: str, end: str) -> None:
    fill_cache(tmp_path / "c", make_manifest(precision=start))
    with pytest.raises(UsageError, match="can only take bits away"):
        convert(tmp_path / "c", tmp_path / "out", precision=end)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{"container": "webdataset"}, {"precision": "int4"}, {"precision": "klt1"}])
def test_a_stopped_conversion_goes_on(source: Path, tmp_path: Path, changes: dict) -> None:
    convert(source, tmp_path / "whole", **changes)
    convert(source, tmp_path / "out", **changes)
    layout = CacheLayout(tmp_path / "out")
    layout.receipt_file(0, 1).unlink()
    stored = layout.load_receipt(2, 2).objects[0]
    (tmp_path / "out" / stored.path).write_bytes(b"short")
    (tmp_path / "out/seed-0000/left.tmp-1").write_text("x")
    assert convert(source, tmp_path / "out", **changes)["shards_written"] == 2
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob("*.tmp-*"))
    assert convert(source, tmp_path / "out", **changes)["shards_written"] == 0


def test_what_it_refuses(source: Path, make_manifest, fill_cache, tmp_path: Path) -> None:
    request = ConversionRequest(container="webdataset")
    with pytest.raises(UsageError, match="into itself"):
        convert_cache(source, source, request)
    with pytest.raises(UsageError, match="a folder in it"):
        convert_cache(source, source / "smaller", request)
    with pytest.raises(UsageError, match="at least 1, found 0"):
        convert_cache(source, tmp_path / "out", request, workers=0)
    fill_cache(tmp_path / "other", make_manifest(samples=4))
    before = digests(tmp_path / "other")
    with pytest.raises(RecipeMismatchError, match=r"dataset\.samples"):
        convert_cache(source, tmp_path / "other", request)
    assert digests(tmp_path / "other") == before
    convert(source, tmp_path / "out", container="webdataset")
    with pytest.raises(CacheError, match="another shard size"):
        convert_cache(source, tmp_path / "out", ConversionRequest(container="webdataset", shard_size=3))
    with exclusive_writer(tmp_path / "locked"), pytest.raises(BusyError, match="is writing to this cache"):
        convert_cache(source, tmp_path / "locked", request)


def test_a_damaged_or_incomplete_source_is_named(source: Path, tmp_path: Path) -> None:
    path = source / "seed-0002/importance/c/1/0"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="importance/c/1/0"):
        convert_cache(source, tmp_path / "out", ConversionRequest(container="webdataset"))
    CacheLayout(source).receipt_file(2, 1).unlink()
    with pytest.raises(IncompleteCacheError, match="seed 2 has no receipt for 1 of 3"):
        convert_cache(source, tmp_path / "other", ConversionRequest(container="webdataset"))


def test_the_command(source: Path, tmp_path: Path, capsys) -> None:
    arguments = ["convert", str(source), str(tmp_path / "out"), "--format", "webdataset", "--precision", "int4"]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--shard-size", "5", "--workers", "2", "--json"])
    assert not caught.value.code
    result = json.loads(capsys.readouterr().out)
    assert (result["container"], result["precision"], result["shards"]) == ("webdataset", "int4", 6)
    for flag in ("--workers", "--shard-size"):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, flag, "0"])
        assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--precision", "int3"])
    assert caught.value.code == 2
