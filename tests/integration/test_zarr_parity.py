"""Our writer and zarr-python read and write the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.core.dtype import VariableLengthBytes

from lookonce.cache.read.reader import CacheReader


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "changes", [{"precision": "fp16"}, {"precision": "int8"}, {"precision": "klt1"}, {"jpeg_quality": 90}], ids=str
)
def test_zarr_python_reads_what_we_wrote(make_manifest, fill_cache, tmp_path: Path, changes) -> None:
    manifest = make_manifest(**changes)
    written = fill_cache(tmp_path / "c", manifest, seeds=(0, 3))
    for seed in (0, 3):
        group = zarr.open_group(tmp_path / "c" / f"seed-{seed:04d}", mode="r")
        for spec in manifest.arrays:
            array = group[spec.name]
            np.testing.assert_array_equal(array[:], written[seed][spec.name])
            assert array.metadata.dimension_names == ("sample", *spec.dimensions)


def test_zarr_python_reads_holes_as_fill_values(make_manifest, fill_cache, tmp_path: Path) -> None:
    manifest = make_manifest()
    written = fill_cache(tmp_path / "c", manifest, holes=(1, 4))[0]
    targets = zarr.open_group(tmp_path / "c/seed-0000", mode="r")["targets"][:]
    assert not targets[[1, 4]].any()
    np.testing.assert_array_equal(targets[[0, 2, 3]], written["targets"][[0, 2, 3]])


def test_zarr_python_writes_the_same_bytes(make_manifest, fill_cache, tmp_path: Path) -> None:
    manifest = make_manifest(samples=6, shard_size=3)
    written = fill_cache(tmp_path / "c", manifest)[0]
    group = zarr.open_group(tmp_path / "theirs", mode="w")
    for spec in manifest.arrays:
        sharded = spec.chunking == "sample"
        whole = (manifest.shard_size, *spec.sample_shape)
        array = group.create_array(
            spec.name,
            shape=(manifest.samples, *spec.sample_shape),
            dtype=spec.dtype if spec.dtype != "string" else str,
            chunks=(1, *spec.sample_shape) if sharded else whole,
            shards=whole if sharded else None,
            compressors=None,
            dimension_names=["sample", *spec.dimensions],
        )
        array[:] = written[spec.name] if spec.dtype != "string" else np.array(written["key"], dtype=object)
        for shard in range(manifest.shard_count):
            ours = (tmp_path / "c/seed-0000" / spec.chunk_path(shard)).read_bytes()
            theirs = (tmp_path / "theirs" / spec.chunk_path(shard)).read_bytes()
            assert ours == theirs, spec.name


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_zarr_python_writes_the_same_jpegs(make_manifest, fill_cache, tmp_path: Path) -> None:
    manifest = make_manifest(samples=5, shard_size=3, jpeg_quality=90)
    jpegs = fill_cache(tmp_path / "c", manifest)[0]["jpeg"]
    theirs = zarr.open_group(tmp_path / "theirs", mode="w").create_array(
        "jpeg",
        shape=(5,),
        dtype=VariableLengthBytes(),
        chunks=(1,),
        shards=(3,),
        compressors=None,
        dimension_names=["sample"],
    )
    theirs[:] = jpegs
    for name in ("c/0", "c/1", "zarr.json"):
        ours, wanted = ((tmp_path / root / "jpeg" / name).read_bytes() for root in ("c/seed-0000", "theirs"))
        if name == "zarr.json":
            ours, wanted = json.loads(ours), json.loads(wanted)
        assert ours == wanted, name


def test_our_reader_reads_what_zarr_python_wrote(make_manifest, fill_cache, tmp_path: Path) -> None:
    manifest = make_manifest(samples=5, shard_size=2)
    fill_cache(tmp_path / "c", manifest)
    array = zarr.open_group(tmp_path / "c/seed-0000", mode="r+")["targets"]
    other = np.random.default_rng(9).integers(1, 200, array.shape).astype(array.dtype)
    array[:] = other
    reader = CacheReader(tmp_path / "c", check="never")  # the digests are those of the old content
    tokens = np.array([[0, 3, 16], [1, 2, 5]])
    got = reader.read("targets", [0, 0], [4, 1], tokens)
    np.testing.assert_array_equal(got, np.stack([other[4][tokens[0]], other[1][tokens[1]]]))
    np.testing.assert_array_equal(reader.read("targets", [0], [3]), other[3:4])
