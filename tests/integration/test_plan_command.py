"""feature-cache plan: what it says before is what extract-features writes after; it writes nothing itself."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lookonce.commands.feature_cache import main


@pytest.fixture
def plan(capsys, tiny_arguments):
    """Plan a tiny extraction in this process: exit code, standard output, standard error."""

    def call(out: Path, *more: object, **changes: Any) -> tuple[int, str, str]:
        arguments = ["plan", *tiny_arguments(out, **changes), "--probe-seconds", 0.2, *more]
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(caught.value.code or 0), printed.out, printed.err

    return call


def bytes_below(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"format": "webdataset", "precision": "int2", "tokens": "visible", "shard_size": 5},
        {"precision": "fp16", "tokens": "top:0.3", "pixels": "none", "limit": 7, "layers": "2,12"},
        {"pixels": "jpeg", "moments": "float16"},
        {"pixels": "jpeg", "jpeg_quality": 80, "moments": "none", "format": "webdataset", "tokens": "visible"},
    ],
)
def test_what_is_planned_is_what_is_written(plan, extract_tiny, tmp_path: Path, changes: dict[str, Any]) -> None:
    out = tmp_path / "not" / "there" / "yet"
    code, printed, _ = plan(out, "--json", **changes)
    assert code == 0
    assert list(tmp_path.iterdir()) == []
    document = json.loads(printed)
    (chosen,) = [size for size in document["sizes"] if size["chosen"]]
    ended = extract_tiny(out, **changes)
    assert ended.code == 0, ended.err
    assert chosen["bytes"] == pytest.approx(bytes_below(out), rel=0.005)
    assert chosen["bytes_a_view"] == chosen["bytes"] / document["extraction"]["views_left"]
    assert document["disk"]["left"] == chosen["bytes"]
    assert document["start_up_seconds"] > 0
    if changes.get("pixels") == "jpeg":
        probe = document["probe"]
        assert probe["jpeg_views"] == 48, "every view"
        assert 500 < probe["jpeg_bytes"] < 2500
        assert "and their JPEGs, whose sizes feature-cache plan estimates" in ended.err
    else:
        assert document["probe"]["jpeg_views"] == 0
        assert f"expected size: {chosen['bytes']:,} bytes" in ended.err


def test_a_busy_machine_is_named_and_does_not_multiply_the_wait_by_the_views(plan, tmp_path, monkeypatch) -> None:
    def waiting_for_a_core(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
        started = time.perf_counter()
        result = work()
        time.sleep(0.2)  # much longer than the tiny teacher computes, and as long for one view as for many
        return time.perf_counter() - started, result

    monkeypatch.setattr("lookonce.reports.plan.probe._timed", waiting_for_a_core)
    code, printed, _ = plan(tmp_path / "cache", "--probe-seconds", 4)
    assert code == 0
    assert re.search(r"24 images and \d+ forward passes of [1-9]\d? views; per view:", printed)  # not of 1 view
    assert re.search(r"\(the teacher waited [6-9]\d% of its time for a CPU core: other programs keep", printed)


def test_every_precision_and_token_subset_is_listed(plan, tmp_path: Path) -> None:
    sizes = json.loads(plan(tmp_path / "c", "--json", tokens="top:0.25")[1])["sizes"]
    assert [size["tokens"]["kind"] for size in sizes] == ["all", "visible", "top"] * 12
    assert [size["stored_patches"] for size in sizes[:3]] == [16, 4, 4]
    assert {size["tokens"]["share"] for size in sizes if size["tokens"]["kind"] == "top"} == {0.25}
    totals = {(size["precision"], size["tokens"]["kind"]): size["bytes"] for size in sizes}
    assert totals["fp16", "all"] > totals["int8", "all"] > totals["int4", "all"] > totals["int2", "all"]
    assert totals["int8", "all"] > totals["int8", "visible"]


@pytest.mark.parametrize("changes", [{}, {"tokens": "visible", "format": "webdataset"}, {"layers": "2,12"}])
def test_a_klt_cache_takes_what_is_planned(plan, extract_tiny, tmp_path: Path, changes: dict[str, Any]) -> None:
    """What every view takes is exact; the bases of the code, once per cache, are known after calibration."""
    out = tmp_path / "c"
    document = json.loads(plan(out, "--json", precision="klt1", **changes)[1])
    (chosen,) = [size for size in document["sizes"] if size["chosen"]]
    ended = extract_tiny(out, precision="klt1", **changes)
    assert ended.code == 0, ended.err
    (bases,) = (out / "encoding").iterdir()
    written = bytes_below(out) - bases.stat().st_size
    assert chosen["bytes"] - chosen["bytes_of_encoding"] == pytest.approx(written, rel=0.02)
    assert 0.3 < chosen["bytes_of_encoding"] / bases.stat().st_size < 3
    assert "note: the KLT calibration saw" in ended.err
    assert "give more images, or take int8 or int4" in ended.err


def test_lines_for_people(plan, tmp_path: Path) -> None:
    code, printed, _ = plan(tmp_path / "c", "--epochs", 10, "--student-rate", 500)
    assert code == 0
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines if line and line[0] != " "][:3] == ["teacher", "views", "tried"]
    assert "24 images x 2 seeds = 48; pixels stored; zarr shards of 4" in printed
    (starred,) = [line for line in lines if "*" in line]
    assert starred.startswith("int8")
    assert "a student at 500 images/s needs" in printed
    assert "1 experiment of 10 epochs: " in printed
    assert "an experiment sees every view 5 times" in printed
    assert lines[-1] == "advice       CACHE"


def test_as_many_seeds_as_epochs_are_advised_against(plan, tmp_path: Path) -> None:
    code, printed, _ = plan(tmp_path / "c", "--epochs", 2, "--json")
    assert code == 0
    document = json.loads(printed)
    assert document["advice"] == "do not cache"
    assert "48 times for the cache and 48 times online" in document["reasons"][0]
    assert json.loads(plan(tmp_path / "c", "--epochs", 2, "--experiments", 9, "--json")[1])["advice"] == "cache"


def test_what_is_there_costs_nothing_more(plan, whole_cache: Path, files) -> None:
    before = files(whole_cache)
    document = json.loads(plan(whole_cache, "--json", shard_size=None)[1])
    assert document["extraction"]["views_left"] == 0
    assert document["disk"]["left"] == 0
    assert document["shard_size"] == 4
    assert document["advice"] == "cache"
    assert "the cache has every view already" in plan(whole_cache)[1]
    more = json.loads(plan(whole_cache, "--json", seeds="0-3")[1])
    assert more["extraction"]["views_left"] == 48
    (chosen,) = [size for size in more["sizes"] if size["chosen"]]
    assert more["disk"]["left"] == chosen["bytes"] // 2
    assert more["disk"]["there"] == document["disk"]["there"] > 48 * 17 * 5 * 192
    assert files(whole_cache) == before


def test_reading_counts_visible_tokens_and_pixels_alone(plan, tmp_path: Path) -> None:
    """16 patches, 4 of them visible: 5 of 17 tokens of 5 x 192 bytes, 4 of 16 patches of 192, importance."""
    document = json.loads(plan(tmp_path / "c", "--json", "--student-rate", 1)[1])
    assert document["reading"]["visible_patches"] == 4
    assert document["reading"]["visible_bytes_per_second"] == 5 * 5 * 192 + 4 * 192 + 16 * 4


def test_unreadable_images_are_counted(plan, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (40, 40)).save(images / "good.png")
    (images / "bad.png").write_bytes(b"not an image")
    document = json.loads(plan(tmp_path / "c", "--json", images=images)[1])
    assert (document["probe"]["images"], document["probe"]["unreadable"]) == (2, 1)
    (images / "good.png").write_bytes(b"neither")
    code, _, error = plan(tmp_path / "c", images=images)
    assert code == 1
    assert "none of the 2 images that were tried can be read; the first: " in error


@pytest.mark.parametrize(
    ("more", "changes", "words"),
    [
        (["--epochs", 0], {}, "--epochs 0: must be at least 1"),
        (["--experiments", -1], {}, "--experiments -1: must be at least 1"),
        (["--student-rate", 0], {}, "--student-rate 0.0: must be above 0"),
        (["--probe-seconds", "nan"], {}, "--probe-seconds nan: must be above 0"),
        ([], {"teacher": "clip-b17"}, "clip-b17"),
        ([], {"images": None}, "--images: a folder of images is needed"),
        ([], {"reuse": "/earlier"}, "--reuse"),
        ([], {"executor": "ray", "workers": 4096}, "--workers 4096: the Ray cluster has only"),
    ],
)
def test_bad_usage_exits_with_2(plan, tmp_path: Path, more, changes: dict[str, Any], words: str) -> None:
    code, printed, error = plan(tmp_path / "c", *more, **changes)
    assert (code, printed) == (2, "")
    assert words in error


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher_weights": "/nowhere.safetensors"}, "/nowhere.safetensors"),
        ({"images": "/nowhere"}, "/nowhere"),
    ],
)
def test_what_is_missing_fails_in_one_sentence(plan, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    code, printed, error = plan(tmp_path / "c", **changes)
    assert (code, printed) == (1, "")
    assert words in error
    assert error.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_extraction_would_refuse_is_refused_now(plan, whole_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert "contains other files (notes.txt)" in plan(tmp_path)[2]
    assert "--precision int8, this run asks for --precision int4" in plan(whole_cache, precision="int4")[2]
    assert "made by another recipe" in plan(whole_cache, layers="12")[2]
