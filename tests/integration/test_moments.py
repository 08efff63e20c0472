"""``--moments``: mean and standard deviation of tokens in float16 or left out, from extraction to training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from lookonce.cache.convert.conversion import convert_cache
from lookonce.cache.convert.request import ConversionRequest
from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.verify.verification import verify_cache
from lookonce.cache.write.stored_moments import with_stored_moments
from lookonce.commands import feature_cache
from lookonce.shared.errors import CacheMismatchError, NumericalError, UsageError
from lookonce.storage_schemas.arrays import MOMENT_ARRAYS, MOMENTS
from lookonce.storage_schemas.manifest import validate_manifest
from lookonce.storage_schemas.problems import sealed
from lookonce.train.batch_config import BatchConfig
from lookonce.train.cached_targets import CachedTargets
from lookonce.train.model.alignment_config import AlignmentConfig


@pytest.fixture(scope="module")
def fewer(extract_tiny, tmp_path_factory) -> dict[str, Path]:
    """The extraction of ``whole_cache`` with other moments, by their name; not to be changed."""
    folder = tmp_path_factory.mktemp("moments")
    for moments in ("float16", "none"):
        ended = extract_tiny(folder / moments, moments=moments)
        assert ended.code == 0, ended.err
    return {moments: folder / moments for moments in ("float16", "none")}


@pytest.mark.parametrize("moments", ["float16", "none"])
def test_all_else_is_as_with_float32(fewer, whole_cache, files, moments) -> None:
    ours, theirs = files(fewer[moments]), files(whole_cache)
    other = {"manifest.json", *(name for name in theirs if name.startswith(("receipts/", "seed-0000/zarr")))}
    other |= {name for name in theirs if any(array in name for array in MOMENT_ARRAYS)}
    assert {name: ours[name] for name in theirs.keys() - other} == {
        name: theirs[name] for name in theirs.keys() - other
    }
    found, wanted = CacheReader(fewer[moments]), CacheReader(whole_cache)
    assert found.manifest.recipe.fingerprint == wanted.manifest.recipe.fingerprint
    assert (found.manifest.schema_version, wanted.manifest.schema_version) == (2, 1)
    for mine, yours in zip(found.receipts(0), wanted.receipts(0), strict=True):
        assert mine.statistics == pytest.approx(yours.statistics, rel=1e-3)
    assert verify_cache(fewer[moments], full=True).whole


def test_float16_is_the_nearest_to_float32(fewer, whole_cache) -> None:
    found, wanted = CacheReader(fewer["float16"]), CacheReader(whole_cache)
    rows = wanted.rows(1)
    group = zarr.open_group(fewer["float16"] / "seed-0001", mode="r")
    for name in MOMENT_ARRAYS:
        values = wanted.read(name, [1] * len(rows), rows).astype(np.float16)
        assert np.array_equal(found.read(name, [1] * len(rows), rows), values)
        assert np.array_equal(group[name][:], values)  # type: ignore[index]


def test_a_resumed_extraction_keeps_its_moments(extract_tiny, fewer, tmp_path, files) -> None:
    cache = shutil.copytree(fewer["float16"], tmp_path / "cache")
    CacheLayout(cache).receipt_file(1, 2).unlink()
    refused = extract_tiny(cache)
    assert refused.code == 1
    assert "made with --moments float16, this run asks for --moments float32" in refused.err
    assert extract_tiny(cache, moments="float16").code == 0
    assert files(cache) == files(fewer["float16"])


@pytest.mark.parametrize("container", ["zarr", "webdataset"])
def test_a_conversion_takes_bits_away(whole_cache, fewer, tmp_path, files, container) -> None:
    half = tmp_path / "half"
    convert_cache(whole_cache, half, ConversionRequest(moments="float16", container=container))
    convert_cache(half, tmp_path / "none", ConversionRequest(moments="none", container="zarr"))
    convert_cache(half, tmp_path / "zarr", ConversionRequest(container="zarr"))
    for name, moments in (("zarr", "float16"), ("none", "none")):
        ours, theirs = (
            {one: digest for one, digest in files(root).items() if "receipts" not in one}
            for root in (tmp_path / name, fewer[moments])
        )
        assert ours == theirs
    with pytest.raises(UsageError, match=r"--moments float32: .* has --moments float16, and a conversion can only"):
        convert_cache(half, tmp_path / "no", ConversionRequest(moments="float32"))


def test_reuse_copies_where_there_are_enough_bits(extract_tiny, whole_cache, fewer, tmp_path, files) -> None:
    copied = extract_tiny(tmp_path / "half", moments="float16", reuse=whole_cache)
    assert "copies the stored values" in copied.err
    assert files(tmp_path / "half") == files(fewer["float16"])
    none = extract_tiny(tmp_path / "none", moments="none", reuse=fewer["float16"])
    assert "copies the stored values" in none.err
    assert {n: d for n, d in files(tmp_path / "none").items() if "receipts" not in n} == {
        n: d for n, d in files(fewer["none"]).items() if "receipts" not in n
    }
    again = extract_tiny(tmp_path / "again", moments="none", reuse=tmp_path / "none")
    assert again.code == 0, again.err
    assert files(tmp_path / "again") == files(tmp_path / "none"), "statistics come from the receipts"
    more = extract_tiny(tmp_path / "more", reuse=fewer["none"])
    assert "moments: cache has none, this run stores float32" in more.err
    assert "the teacher runs on the stored pixels" in more.err


@pytest.mark.parametrize("norm", ["none", "l2", "bn"])
def test_training_reads_float16_and_says_what_is_absent(training_cache, norm) -> None:
    def targets(**options: Any) -> Any:
        alignment = AlignmentConfig(layer_weights="top2", target_norm=norm)
        config = BatchConfig(shards=(training_cache(**options),), batch_size=4, epochs=1)
        batches = CachedTargets(config, alignment=alignment)
        return next(iter(batches))["targets"][0].numpy()

    def halves(manifest: Any, seed: int) -> dict[str, Any]:
        generator = np.random.default_rng(seed)
        return {
            name: (generator.random((manifest.samples, *manifest.array(name).sample_shape)) + 0.5)
            .astype(np.float16)
            .astype(manifest.array(name).dtype)
            for name in MOMENT_ARRAYS
        }

    half = targets(name="half", moments="float16", make_arrays=halves)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, targets(name="whole", make_arrays=halves), rtol=1e-5, atol=1e-6)
    with pytest.raises(CacheMismatchError, match=f"--target-norm {norm} needs the mean .* made with --moments none"):
        targets(name="bare", moments="none")


def test_drift_compares_what_is_there(fewer, tiny_weights, capsys) -> None:
    given = ("--teacher-weights", str(tiny_weights), "--views", "4", "--device", "cpu", "--json")
    for moments in ("float16", "none"):
        with pytest.raises(SystemExit) as ended:
            feature_cache.main(["drift", str(fewer[moments]), *given])
        report = json.loads(capsys.readouterr().out)
        assert not ended.value.code, report
        assert report["stored_moments"] == moments


def test_a_moment_beyond_float16_is_refused(make_manifest) -> None:
    manifest = make_manifest(moments="float16")
    values = {name: np.ones((2, 17, 2), np.float32) for name in MOMENT_ARRAYS}
    values["target_std"][1, 3, 0] = 7e4
    with pytest.raises(NumericalError, match=r"sample 'b', seed 3: .* beyond 65504, .* --moments float32"):
        with_stored_moments(values, manifest, ["a", "b"], 3)


@pytest.mark.parametrize("moments", MOMENTS)
def test_a_manifest_has_the_lowest_version_that_describes_it(make_manifest, moments) -> None:
    document = json.loads(json.dumps(make_manifest(moments=moments).document()))
    assert validate_manifest(document) == []
    version = document["schema_version"]
    problems = validate_manifest(sealed({**document, "schema_version": 3 - version}))
    place = "schema_version" if moments == "float32" else "arrays"
    assert {problem.loc for problem in problems} == {(place,)}
