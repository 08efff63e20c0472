"""Stock zarr as a reader of decoded targets, in every precision; what lies on disk stays plain."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.zarr_plugin.codec import TargetsCodec
from lookonce.cache.zarr_plugin.decoded_group import decoded_targets_metadata, open_decoded
from lookonce.shared.errors import CacheError, CacheMismatchError, IncompleteCacheError, IntegrityError
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.precision import PRECISIONS, ElementPrecision, get_element_precision, get_precision
from lookonce.storage_schemas.tokens import AllTokens, TokenSubset, TopTokens, VisibleTokens

WIDTH = 7  # channels that fill no whole number of bytes
HOLE = 4
ELEMENT_PRECISIONS = [name for name, one in PRECISIONS.items() if isinstance(one, ElementPrecision)]


@pytest.mark.parametrize("precision", PRECISIONS)
class TestEveryPrecision:
    @pytest.mark.parametrize(
        "tokens",
        [AllTokens(), VisibleTokens(mask="attentive", mask_ratio=0.7), TopTokens(share=0.5)],
        ids=lambda tokens: tokens.kind,
    )
    def test_zarr_gives_what_our_reader_decodes(
        self, make_manifest, fill_cache, tmp_path: Path, precision: str, tokens: TokenSubset
    ) -> None:
        manifest = make_manifest(precision=precision, layers=3, width=WIDTH, tokens=tokens)
        fill_cache(tmp_path / "c", manifest, seeds=(0, 3), make_arrays=finite_targets)
        reader = CacheReader(tmp_path / "c")
        for seed in (0, 3):
            targets = open_decoded(tmp_path / "c", seed)["targets"]
            expected = reader.read_targets([seed] * 5, range(5))
            assert (targets.shape, targets.dtype) == (expected.shape, np.float32)
            assert targets.metadata.dimension_names == ("sample", "token", "layer", "channel")
            np.testing.assert_array_equal(targets[:], expected)
            np.testing.assert_array_equal(targets[3], expected[3])
            np.testing.assert_array_equal(targets[1:4, 2, ::2, 5], expected[1:4, 2, ::2, 5])
            np.testing.assert_array_equal(targets.oindex[[4, 0], :, [1]], expected[[4, 0]][:, :, [1]])


@pytest.mark.parametrize("precision", ELEMENT_PRECISIONS)
class TestTheCodec:
    def test_zarr_encodes_as_we_do(self, make_manifest, tmp_path: Path, precision: str) -> None:
        manifest = make_manifest(precision=precision, width=WIDTH)
        values = np.random.default_rng(1).normal(size=(5, 17, 2, WIDTH)).astype(np.float32)
        written = zarr.create_array(
            tmp_path / "z",
            shape=values.shape,
            dtype="float32",
            chunks=(1, 17, 2, WIDTH),
            shards=(2, 17, 2, WIDTH),
            filters=[codec_of(manifest)],
            compressors=None,
        )
        written[:] = values
        encoded = get_element_precision(precision).encode(values, manifest.encoding.parameters)
        decoded = get_element_precision(precision).decode(encoded, manifest.encoding.parameters, channels=WIDTH)
        np.testing.assert_array_equal(zarr.open_array(tmp_path / "z", mode="r")[:], decoded)
        assert encoded[:2].tobytes() in (tmp_path / "z/c/0/0/0/0").read_bytes()

    def test_the_codec_survives_its_metadata_and_a_pickle(self, make_manifest, precision: str) -> None:
        codec = codec_of(make_manifest(precision=precision))
        for again in (
            TargetsCodec.from_dict(json.loads(json.dumps(codec.to_dict()))),
            pickle.loads(pickle.dumps(codec)),
        ):
            assert again == codec
            assert hash(again) == hash(codec)
        assert codec != codec_of(make_manifest(precision=precision, width=WIDTH))


def finite_targets(manifest: Manifest, seed: int) -> dict[str, Any]:
    """Encoded targets: not every byte is a float that equals itself."""
    teacher = manifest.recipe.teacher
    shape = (manifest.samples, manifest.recipe.stored_patches + 1, len(teacher.blocks), teacher.width)
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return get_precision(manifest.encoding.precision).encode_views(values, manifest.encoding.parameters)


def codec_of(manifest: Manifest) -> TargetsCodec:
    teacher = manifest.recipe.teacher
    return TargetsCodec(encoding=manifest.encoding, layers=len(teacher.blocks), channels=teacher.width)


@pytest.fixture(params=["int8", "klt1"])
def cache(make_manifest, fill_cache, tmp_path: Path, request) -> Path:
    fill_cache(tmp_path / "c", make_manifest(precision=request.param), holes=(HOLE,))
    return tmp_path / "c"


def test_the_rest_of_the_group_is_as_on_disk_and_the_disk_knows_nothing_of_it(cache: Path) -> None:
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    decoded, plain = open_decoded(cache, 0), zarr.open_group(cache / "seed-0000", mode="r")
    assert sorted(decoded.array_keys()) == sorted(plain.array_keys())
    assert dict(decoded.attrs) == dict(plain.attrs)
    for name in plain.array_keys():
        if name != "targets":
            np.testing.assert_array_equal(decoded[name][:], plain[name][:])
    assert dict(decoded.members())["targets"].dtype == np.float32
    assert plain["targets"].dtype == np.uint8
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == before
    assert not any(b"lookonce.targets" in content for content in before.values())


def test_a_hole_reads_as_nan(cache: Path) -> None:
    targets = open_decoded(cache, 0)["targets"]
    assert np.isnan(targets[HOLE]).all()
    assert np.isfinite(targets[:HOLE]).all()


def test_it_is_read_only_and_pickles(cache: Path) -> None:
    group = open_decoded(cache, 0)
    with pytest.raises(ValueError, match="read-only"):
        group["targets"][0] = 0
    with pytest.raises(ValueError, match="a decoded cache is read only"):
        group.store.with_read_only(False)
    again = pickle.loads(pickle.dumps(group))
    assert again.store == group.store
    np.testing.assert_array_equal(again["targets"][1], group["targets"][1])


@pytest.mark.parametrize("cache", ["int8"], indirect=True)
def test_zarr_finds_the_codec_without_an_import(cache: Path, tmp_path: Path) -> None:
    metadata = decoded_targets_metadata(CacheReader(cache).manifest)
    folder = tmp_path / "copy"
    (cache / "seed-0000/targets").rename(folder)
    (folder / "zarr.json").write_text(json.dumps(metadata))
    program = f"import zarr; print(zarr.open_array({str(folder)!r}, mode='r')[0].dtype)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.stdout.strip(), ended.returncode) == ("float32", 0), ended.stderr


def test_what_is_no_whole_zarr_seed_is_refused(cache: Path, make_manifest, fill_cache, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"no manifest\.json"):
        open_decoded(tmp_path, 0)
    with pytest.raises(IncompleteCacheError, match="has no seed 1, it has 0"):
        open_decoded(cache, 1)
    fill_cache(tmp_path / "tars", make_manifest(container="webdataset"))
    with pytest.raises(CacheMismatchError, match=r"container is webdataset.*feature-cache convert"):
        open_decoded(tmp_path / "tars", 0)
    path = next(found for found in (cache / "seed-0000/targets/c/1").rglob("*") if found.is_file())
    path.unlink()
    with pytest.raises(IntegrityError, match=rf"{path.relative_to(cache / 'seed-0000')} .*there is no such file"):
        open_decoded(cache, 0)


def test_metadata_that_do_not_fit_are_refused(make_manifest) -> None:
    manifest = make_manifest()
    good: Any = codec_of(manifest).to_dict()
    with pytest.raises(ValueError, match="lacks encoding, layers"):
        TargetsCodec.from_dict({"name": "lookonce.targets", "configuration": {"channels": 6}})
    with pytest.raises(ValueError, match=r"precision 'int3' is not known here \(fp16"):
        TargetsCodec.from_dict(changed(good, encoding={"precision": "int3"}))
    with pytest.raises(ValueError, match="the digest of the parameters"):
        TargetsCodec.from_dict(changed(good, encoding={**good["configuration"]["encoding"], "digest": "sha256:0"}))
    with pytest.raises(ValueError, match=r"'scale' has shape \[2, 6\], expected \[2, 9\]"):
        TargetsCodec.from_dict(changed(good, channels=9))
    with pytest.raises(ValueError, match="needs the parameter 'scale'"):
        TargetsCodec(encoding=Encoding(precision="int8", parameters={}), layers=2, channels=6)


def changed(metadata: Any, **fields: Any) -> Any:
    return {**metadata, "configuration": {**metadata["configuration"], **fields}}


@pytest.mark.parametrize(("dtype", "width"), [("float64", 6), ("float32", 5)])
def test_arrays_of_other_values_are_refused(make_manifest, dtype: str, width: int) -> None:
    with pytest.raises(ValueError, match=rf"float32 with last axes \(2, 6\), found {dtype} with \(2, {width}\)"):
        zarr.create_array(
            MemoryStore(),
            shape=(3, 2, width),
            dtype=dtype,
            chunks=(1, 2, width),
            filters=[codec_of(make_manifest())],
            compressors=None,
        )


def test_what_has_no_code_is_refused(make_manifest) -> None:
    array = zarr.create_array(
        MemoryStore(),
        shape=(3, 2, 6),
        dtype="float32",
        chunks=(1, 2, 6),
        filters=[codec_of(make_manifest())],
        compressors=None,
    )
    with pytest.raises(ValueError, match="NaN and infinity have no code in precision int8"):
        array[1] = np.inf
