"""feature-cache fidelity as users type it: a cache or a teacher as the reference, the plot, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookonce.commands.feature_cache import main
from lookonce.storage_schemas.precision import get_precision
from lookonce.storage_schemas.tokens import TopTokens

KLT = ["klt2", "klt1.5", "klt1", "klt0.75", "klt0.5", "klt0.25"]


@pytest.fixture
def run(capsys):
    """Run the command in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["fidelity", *map(str, arguments)])
        printed = capsys.readouterr()
        return int(caught.value.code or 0), printed.out, printed.err

    return call


def features(manifest: Any, seed: int) -> dict[str, Any]:
    """Normal values with an outlier channel, encoded as the cache stores them."""
    teacher, tokens = manifest.recipe.teacher, manifest.recipe.stored_patches + 1
    shape = (manifest.samples, tokens, len(teacher.blocks), teacher.width)
    values = np.random.default_rng(seed).normal(size=shape)
    values[..., 3] += 20
    codec = get_precision(manifest.encoding.precision)
    return codec.encode_views(values.astype(np.float32), manifest.encoding.parameters)


@pytest.fixture
def fill(make_manifest, fill_cache, tmp_path: Path):
    """Write a cache of two seeds; keyword arguments change its manifest."""

    def build(*, holes: tuple[int, ...] = (), **changes: Any) -> Path:
        manifest = make_manifest(**{"samples": 24, "shard_size": 8, "precision": "fp16", "width": 32, **changes})
        fill_cache(tmp_path / "c", manifest, seeds=(0, 1), make_arrays=features, holes=holes)
        return tmp_path / "c"

    return build


@pytest.mark.parametrize("container", ["zarr", "webdataset"])
def test_a_cache_of_fp16_judges_all_of_fewer_bits(run, fill, container: str) -> None:
    root = fill(container=container, holes=(2,))
    code, out, err = run(root, "--json")
    assert (code, err.count("\n")) == (0, 1)
    result = json.loads(out)
    assert list(result["precisions"]) == ["fp8-e4m3", "int8", "int4", "int2", *KLT]
    assert result["left_out"] == dict.fromkeys(["fp16", "bf16"], "16 bits cannot be judged from a reference of 16")
    assert result["reference"] | {"name": ""} == {
        "kind": "cache",
        "name": "",
        "precision": "fp16",
        "teacher": "timm:tiny",
        "blocks": [3, 4],
        "tokens": 17,
        "channels": 32,
        "images": 11,
        "seeds": [0, 1],
        "calibration_images": 12,
        "klt_calibration_images": 12,
        "split": True,
    }
    assert result["views"] == 22
    assert sorted((found["block"], found["channel"]) for found in result["outliers"]["channels"]) == [(3, 3), (4, 3)]
    most = {"fp8-e4m3": 0.03, "int8": 0.02, "int4": 0.14, "int2": 0.4}
    for name, measured in result["precisions"].items():
        if name in KLT:  # independent values: there is nothing that a transform could use
            assert 0.1 < measured["relative_error_bulk"] < 1.1
            continue
        assert most[name] / 4 < measured["relative_error_bulk"] < most[name]
        assert measured["cosine_lowest"] <= measured["cosine_mean"] <= 1
        assert measured["gradient_change"] > measured["relative_error_bulk"]
    assert result["precisions"]["int4"]["target_bytes"] == 17 * 2 * 16


def test_the_table_names_reference_outliers_and_what_was_left_out(run, fill, tmp_path: Path) -> None:
    code, out, _ = run(fill(), "--seeds", "1", "--views", "4", "--calibration-views", "8", "--plot", tmp_path / "p.png")
    assert code == 0
    for text in (
        f"cache {tmp_path / 'c'}",
        "judged by 4 views of 4 images (seeds 1), calibrated on 8 other images (seed 1)",
        "outliers  2 of 64 channels",
        "block 3, channel 3: root mean square 20.",
        "left out: bf16, 16 bits cannot",
        str(tmp_path / "p.png"),
    ):
        assert text in out
    rows = [line.split()[0] for line in out.splitlines() if " %" in line]
    assert rows == ["fp8-e4m3", "int8", "int4", "int2", *KLT]
    assert "note: the KLT calibration saw 128 patch tokens of 8 views, and 1,920 are comfortable" in out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_few_images_calibrate_and_judge_and_it_says_so(run, fill) -> None:
    _, out, _ = run(fill(samples=5))
    assert "judged by 10 views of 5 images (seeds 0, 1), calibrated on 5 of the same images (seed 0)" in out


def test_a_token_subset_is_judged_by_what_it_stores(run, fill) -> None:
    _, out, _ = run(fill(tokens=TopTokens(share=0.5), precision="int8"), "--json")
    result = json.loads(out)
    assert result["reference"]["tokens"] == 9
    assert list(result["precisions"]) == ["int4", "int2", *KLT]
    assert result["precisions"]["int4"]["target_bytes"] == 9 * 2 * 16


def test_a_teacher_is_the_reference_in_fp32(run, tiny_weights: Path, tiny_images: Path) -> None:
    arguments = ["--teacher", "timm:vit_tiny_patch16_224", "--teacher-weights", tiny_weights, "--images", tiny_images]
    code, out, _ = run(
        *arguments, "--view-size", 32, "--patch-size", 8, "--layers", "11,12", "--seeds", "0-1", "--json"
    )
    assert code == 0
    result = json.loads(out)
    assert list(result["precisions"]) == ["fp16", "bf16", "fp8-e4m3", "int8", "int4", "int2", *KLT]
    assert (result["left_out"], result["views"], result["reference"]["tokens"]) == ({}, 24, 17)
    assert result["reference"]["blocks"] == [11, 12]
    errors = [measured["relative_error"] for measured in result["precisions"].values()]
    assert errors[0] < errors[1] < errors[2]
    assert errors[3] < errors[4] < errors[5] < 1
    assert errors[6:] == sorted(errors[6:])


def test_a_teacher_over_images_that_cannot_be_read(run, tiny_weights: Path, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    arguments = ["--teacher", "timm:vit_tiny_patch16_224", "--teacher-weights", tiny_weights, "--images", tmp_path]
    code, out, err = run(*arguments, "--view-size", 32, "--patch-size", 8)
    assert (code, out) == (1, "")
    assert "none of the 3 images" in err


def test_real_features_lose_what_the_design_says(run, data_dir: Path) -> None:
    """DeiT-Tiny on the photographs; the numbers of the cache's design document, with room for other views."""
    weights = data_dir / "deit_tiny_patch16_224.safetensors"
    _, out, _ = run(
        "--teacher", "deit-tiny", "--teacher-weights", weights, "--images", data_dir / "photos", "--views", 24, "--json"
    )
    measured = json.loads(out)["precisions"]
    assert 0.009 < measured["int8"]["relative_error_bulk"] <= 0.012
    assert 0.05 < measured["int4"]["relative_error_bulk"] <= 0.11
    assert 0.02 < measured["fp8-e4m3"]["relative_error_bulk"] <= 0.03
    assert measured["int8"]["gradient_change"] == pytest.approx(0.02, rel=0.3)
    assert measured["int4"]["gradient_change"] == pytest.approx(0.19, rel=0.2)
    assert 0.08 < measured["klt2"]["relative_error"] < measured["int4"]["relative_error"] * 1.2
    assert measured["klt1"]["relative_error"] <= 0.24
    assert measured["klt0.5"]["relative_error"] <= 0.38


def test_a_damaged_cache_is_named(run, fill) -> None:
    root = fill()
    path = root / "seed-0001/targets/c/1/0/0/0"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    code, out, err = run(root)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert "seed-0001/targets/c/1/0/0/0" in err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"precision": "klt0.25"}, "no precision has fewer bits"), ({"holes": tuple(range(24))}, "no sample is there")],
)
def test_what_cannot_judge_is_refused(run, fill, changes: dict, sentence: str) -> None:
    code, out, err = run(fill(**changes))
    assert (code, out) == (1, "")
    assert sentence in err


def test_no_cache_fails_in_one_sentence(run, tmp_path: Path) -> None:
    code, _, err = run(tmp_path / "absent")
    assert code == 1
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "found neither"),
        (("c", "--teacher", "deit-tiny", "--images", "i"), "found both"),
        (("--teacher", "deit-tiny"), "needs --images"),
        (("c", "--images", "i"), "--images goes with --teacher"),
        (("c", "--layers", "all"), "--layers goes with --teacher"),
        (("c", "--views", "0"), "--views 0: must be at least 1"),
        (("c", "--calibration-views", "-1"), "--calibration-views"),
        (("c", "--student-error", "0"), "--student-error"),
        (("c", "--student-error", "nan"), "--student-error"),
        (("c", "--seeds", "x"), "seeds"),
    ],
)
def test_bad_usage_exits_with_2(run, arguments: tuple[str, ...], sentence: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err


def test_an_unknown_teacher_is_bad_usage(run, tiny_images: Path) -> None:
    code, _, err = run("--teacher", "nobody", "--images", tiny_images)
    assert code == 2
    assert "nobody" in err


def test_ray_is_not_needed(fill) -> None:
    program = (
        "import sys\nsys.modules['ray'] = None\nfrom lookonce.commands.feature_cache import main\n"
        f"main(['fidelity', {str(fill())!r}])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
