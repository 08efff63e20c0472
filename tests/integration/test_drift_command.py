"""feature-cache drift: silent on a fresh cache of any precision, loud when weights, targets or importance differ."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lookonce.cache.convert.conversion import convert_cache
from lookonce.cache.convert.request import ConversionRequest
from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.verify.verification import verify_cache
from lookonce.cache.write.shard_writer import ShardWriter
from lookonce.commands.early_checks import LOADING
from lookonce.commands.feature_cache import main
from lookonce.reports.drift.report import DifferenceTally
from lookonce.reports.drift.sampled_views import SampledView, sample_views
from lookonce.shared.errors import IncompleteCacheError

TEACHER = "teacher timm:vit_tiny_patch16_224"
BLOCKS = ["block 8", "block 9", "block 10", "block 11", "block 12"]


@pytest.fixture
def drift(capsys, tiny_weights: Path):
    """Run ``feature-cache drift``: exit code, standard output, standard error."""

    def call(cache: Path, *arguments: object, weights: Path = tiny_weights) -> tuple[int, str, str]:
        given = ["drift", cache, "--teacher-weights", weights, "--device", "cpu", *arguments]
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in given])
        printed = capsys.readouterr()
        return int(caught.value.code or 0), printed.out, printed.err

    return call


def drifted(result: dict[str, Any]) -> list[str]:
    return [one["name"] for one in result["deviations"] if one["drifted"]]


def test_a_fresh_cache_has_none(drift, whole_cache: Path) -> None:
    code, out, err = drift(whole_cache)
    assert (code, err.splitlines()) == (
        0,
        [f"comparing views of {whole_cache} with what {TEACHER} gives now; {LOADING}"],
    )
    assert [line.split("  ")[0] for line in out.splitlines()[1:-2]] == [*BLOCKS, "importance"]
    assert out.splitlines()[-1] == f"{whole_cache}: 32 views compared: no drift"
    assert "allowed: a mean of 4 times that between two runs of the teacher now, at least 3e-05 (fp32)" in out
    code, out, _ = drift(whole_cache, "--json", "--views", 1000, "--batch-size", 1)
    result = json.loads(out)
    assert (code, result["views"], result["batch_sizes"], result["teacher_differences"]) == (0, 48, [1, 2], [])
    assert [one["name"] for one in result["deviations"]] == [*BLOCKS, "importance"]
    assert not result["drifted"]


@pytest.mark.parametrize(
    "precision", ["int2", "klt0.5", *(pytest.param(p, marks=pytest.mark.slow) for p in ("fp16", "fp8-e4m3"))]
)
def test_quantisation_is_no_drift(drift, extract_tiny, tmp_path: Path, precision: str) -> None:
    assert extract_tiny(tmp_path / "c", precision=precision, seeds="0").code == 0
    code, out, _ = drift(tmp_path / "c", "--json")
    assert code == 0
    assert max(one["mean"] for one in json.loads(out)["deviations"]) < 1e-5


def test_other_weights_are_named_by_digest_and_measured(drift, whole_cache: Path, other_weights: Path) -> None:
    code, out, err = drift(whole_cache, weights=other_weights)
    assert (code, err.count("\n")) == (1, 1)
    cached = CacheLayout(whole_cache).load_manifest().recipe.teacher.weights_digest
    first, *_, last = out.splitlines()
    assert first.startswith(f"weights_digest: {cached} in the cache, sha256:")
    assert first.count(cached) == 1
    assert f"drift in {', '.join(BLOCKS)}, importance; most in block" in last
    result = json.loads(drift(whole_cache, "--json", weights=other_weights)[1])
    assert [one["field"] for one in result["teacher_differences"]] == ["weights_digest"]
    # weights off by a thousandth move features by a little more; quantisation to 8 bits hides none of it
    assert all(1e-3 < one["mean"] < 1e-2 for one in result["deviations"][:-1])


@pytest.fixture(scope="module")
def other_weights(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher's weights, each off by about a thousandth of itself."""
    generator = torch.Generator().manual_seed(1)
    state = {
        name: values * (1 + 1e-3 * torch.randn(values.shape, generator=generator))
        for name, values in load_file(tiny_weights).items()
    }
    path = tmp_path_factory.mktemp("other") / "weights.safetensors"
    save_file(state, path)
    return path


Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def make_other(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a cache of which some shards were written again, with their values changed by a function."""

    def build(cache: Path, change: Change, *, seeds: Iterable[int], shards: Iterable[int]) -> Path:
        root = tmp_path / "altered"
        shutil.copytree(cache, root)
        reader = CacheReader(cache)
        for seed, shard in itertools.product(seeds, shards):
            manifest, rows = reader.manifest, reader.manifest.shard_rows(shard)
            values = {
                spec.name: np.array(reader.read(spec.name, [seed] * len(rows), rows))
                for spec in manifest.arrays
                if spec.chunking == "sample"
            }
            change(values)
            values["view"] = reader.column("view", seed, rows)
            keys, labels = (reader.column(name, seed, rows).tolist() for name in ("key", "label"))
            CacheLayout(root).receipt_file(seed, shard).unlink()
            with ShardWriter(root, manifest, seed=seed, shard=shard, keys=keys, labels=labels) as writer:
                writer.append(list(rows), values)
                writer.commit(statistics={}, versions={})
        assert verify_cache(root, full=True, workers=1).whole
        return root

    return build


@pytest.fixture
def altered(whole_cache: Path, make_other: Callable[..., Path]) -> Callable[[Change], Path]:
    """A copy of the cache whose seed 1, shard 2 was written again, with its values changed by a function."""
    return lambda change: make_other(whole_cache, change, seeds=(1,), shards=(2,))


def test_altered_targets_are_found_in_their_block_and_view(drift, altered) -> None:
    def change(values: dict[str, Any]) -> None:
        values["targets"][1, 5, 3] ^= 1  # one token of block 11: every value a quantisation step away

    root = altered(change)
    code, out, _ = drift(root, "--views", 48)
    key = CacheReader(root).column("key", 1)[9]
    assert code == 1
    assert "drift in block 11; most in block 11: mean difference" in out
    assert f"worst view {key!r}, seed 1 (" in out
    assert [line.split("  ")[0] for line in out.splitlines() if line.endswith("   drift")] == ["block 11"]


@pytest.fixture
def converted(whole_cache: Path, tmp_path: Path) -> Path:
    """The cache at int4."""
    request = ConversionRequest(container=None, precision="int4", shard_size=None, tokens=None)
    convert_cache(whole_cache, tmp_path / "converted", request, workers=1)
    return tmp_path / "converted"


def test_a_conversion_is_no_drift_but_other_weights_are(drift, converted: Path, other_weights: Path) -> None:
    code, out, _ = drift(converted)
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines() if line.endswith("   conversion")] == BLOCKS
    assert "32 views compared: no drift. Targets differ by no more than a conversion to int4 adds;" in out
    result = json.loads(drift(converted, "--json")[1])
    assert all(3e-5 < one["mean"] < one["conversion"] < one["allowed"] < 0.1 for one in result["deviations"][:-1])
    code, out, _ = drift(converted, "--json", weights=other_weights)
    assert (code, drifted(json.loads(out))) == (1, [*BLOCKS, "importance"])
    assert all(one["conversion"] == 0 for one in json.loads(out)["deviations"])


def test_a_converted_cache_whose_targets_are_not_the_teachers_has_drift(drift, converted: Path, make_other) -> None:
    def change(values: dict[str, Any]) -> None:
        values["targets"] ^= 0x11  # every value a step away

    code, out, _ = drift(make_other(converted, change, shards=range(6), seeds=(0, 1)), "--json")
    assert (code, drifted(json.loads(out))) == (1, BLOCKS)


def test_altered_importance_is_found(drift, altered) -> None:
    def change(values: dict[str, Any]) -> None:
        values["importance"][2, :4] *= 1.5

    code, out, _ = drift(altered(change), "--json", "--views", 48)
    result = json.loads(out)
    assert (code, drifted(result)) == (1, ["importance"])
    worst = result["deviations"][-1]["worst"]
    assert (worst["seed"], worst["row"]) == (1, 10)


@pytest.mark.parametrize(
    "flags",
    [
        {"tokens": "top:0.5", "pixels": "none"},  # both reasons at once; each alone is slow
        pytest.param({"pixels": "none"}, marks=pytest.mark.slow),
        pytest.param({"tokens": "visible"}, marks=pytest.mark.slow),
    ],
)
def test_views_that_are_not_stored_whole_are_replayed(
    drift, extract_tiny, tiny_images: Path, other_weights: Path, tmp_path: Path, flags: dict[str, str]
) -> None:
    images, root = tmp_path / "images", tmp_path / "c"
    shutil.copytree(tiny_images, images)
    assert extract_tiny(root, images=images, **flags).code == 0
    code, _, err = drift(root)
    name = "--pixels none" if "pixels" in flags else "--tokens visible"
    assert (code, err.count("\n")) == (2, 2)
    assert f"made with {name} and does not contain whole views" in err
    assert "--images SOURCE" in err
    assert drift(root, "--images", images)[0] == 0
    code, out, _ = drift(root, "--images", images, "--json", weights=other_weights)
    assert (code, drifted(json.loads(out))) == (1, [*BLOCKS, "importance"])
    Image.fromarray(np.zeros((40, 48, 3), dtype=np.uint8)).save(images / "class0/003.png")
    code, _, err = drift(root, "--images", images, "--views", 48)
    assert code == 1
    assert "class0/003.png" in err
    assert "has other pixels than the teacher saw" in err


def test_weights_that_give_nan_are_refused(drift, whole_cache: Path, tiny_weights: Path, tmp_path: Path) -> None:
    state = load_file(tiny_weights)
    state["blocks.5.mlp.fc1.bias"] = state["blocks.5.mlp.fc1.bias"] * torch.nan
    save_file(state, tmp_path / "nan.safetensors")
    code, _, err = drift(whole_cache, weights=tmp_path / "nan.safetensors")
    assert code == 1
    assert "error: sample 'class0/" in err
    assert "the teacher's features have NaN or infinity; check the weights" in err


def test_another_architecture_of_that_name_is_told(drift, make_manifest, fill_cache, tmp_path: Path) -> None:
    manifest = make_manifest()
    teacher = dataclasses.replace(manifest.recipe.teacher, name="timm:vit_tiny_patch16_224")
    manifest = dataclasses.replace(manifest, recipe=dataclasses.replace(manifest.recipe, teacher=teacher))
    fill_cache(tmp_path / "c", manifest)
    code, _, err = drift(tmp_path / "c")
    assert code == 1
    assert "has 4 blocks of 6 channels; what is installed here builds 12 of 192" in err


@pytest.mark.parametrize(("flag", "value"), [("--views", 0), ("--batch-size", 0), ("--device", "tpu")])
def test_bad_usage_exits_with_2(drift, tmp_path: Path, flag: str, value: object) -> None:
    code, out, err = drift(tmp_path, flag, value)
    assert (code, out) == (2, "")
    assert flag in err


def test_no_cache_and_no_whole_seed_fail(drift, whole_cache: Path, tmp_path: Path) -> None:
    assert drift(tmp_path)[0] == 1
    root = tmp_path / "c"
    shutil.copytree(whole_cache, root)
    CacheLayout(root).receipt_file(1, 4).unlink()  # seed 1 is not whole any more, seed 0 is
    result = json.loads(drift(root, "--json", "--views", 48)[1])
    assert (result["views"], result["drifted"]) == (24, False)
    CacheLayout(root).receipt_file(0, 4).unlink()
    code, _, err = drift(root)
    assert code == 1
    assert "has no receipt for 1 of 6 shards" in err


def test_sampled_views_are_distinct_and_no_holes(make_manifest, fill_cache, tmp_path: Path) -> None:
    fill_cache(tmp_path / "c", make_manifest(samples=30, shard_size=8), seeds=(0, 3), holes=(0, 8, 29))
    reader = CacheReader(tmp_path / "c")
    everything = sample_views(reader, 100, 0)
    assert [(one.seed, one.row) for one in everything] == [(seed, row) for seed in (0, 3) for row in reader.rows(seed)]
    assert all(one.key == reader.column("key", one.seed)[one.row] for one in everything)
    some = sample_views(reader, 10, 0)
    assert len(set(some)) == 10
    assert set(some) < set(everything)
    assert some == sample_views(reader, 10, 0) != sample_views(reader, 10, 1)
    fill_cache(tmp_path / "holes", make_manifest(samples=2), holes=(0, 1))
    with pytest.raises(IncompleteCacheError, match="every sample is a hole"):
        sample_views(CacheReader(tmp_path / "holes"), 4, 0)


@pytest.mark.parametrize(("control", "allowed"), [(0.0, 3e-5), (1e-6, 3e-5), (0.01, 0.04)])
def test_the_control_sets_what_is_allowed(control: float, allowed: float) -> None:
    tally = DifferenceTally(["importance"])
    views = [SampledView(key=f"k{row}", seed=0, row=row) for row in range(2)]
    means = np.array([[allowed * 0.5], [allowed * 1.4]])
    controls = np.full((2, 1), control)
    nothing = np.zeros((2, 1))
    measured = {
        "mean": means,
        "largest": means,
        "moments": nothing,
        "conversion": nothing,
        "control_mean": controls,
        "control_largest": controls,
        "control_moments": nothing,
    }
    tally.add(views, measured)
    (found,) = tally.deviations("fp32")
    assert (found.allowed, found.drifted, found.worst) == (pytest.approx(allowed), False, views[1])
    tally.add(views[:1], {name: rows[1:] for name, rows in {**measured, "mean": means * 2}.items()})
    assert tally.deviations("fp32")[0].drifted
