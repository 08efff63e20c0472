"""Signs of life: help, errors and the first line of every command come without torch, timm, ray or open_clip."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lookonce.cache.write.create import create_cache

COMMANDS = """
import builtins, contextlib, importlib, io, json, sys

def without_heavy_ones(name, *rest, do=builtins.__import__):
    if name.partition(".")[0] in {"torch", "timm", "ray", "open_clip", "torchvision", "matplotlib", "datasets"}:
        raise ModuleNotFoundError(f"{name} was imported")
    return do(name, *rest)

builtins.__import__ = without_heavy_ones
for command, *arguments in json.load(sys.stdin):
    main = importlib.import_module("lookonce.commands." + command.replace("-", "_")).main
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
"""Commands, one after the other in one process, where nothing heavy can be imported."""


def run(calls: Sequence[Sequence[str]]) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each call."""
    ended = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [tuple(json.loads(line)) for line in ended.stdout.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, make_manifest: Callable[..., Any]) -> Path:
    """Images in class folders, a file of weights, a cache without a shard."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            (tmp_path / "images" / split / name / "1.png").write_bytes(b"never read")
    (tmp_path / "weights").write_bytes(b"never read")
    create_cache(tmp_path / "cache", make_manifest())
    return tmp_path


CALLS = (
    ("extract-features",),
    ("train-student",),
    ("evaluate-student",),
    ("feature-cache",),
    *(("evaluate-student", measure) for measure in ("knn", "linear", "finetune", "segment")),
    *(("feature-cache", name) for name in ("plan", "show", "verify", "convert", "fidelity", "drift")),
)


def test_help_and_version() -> None:
    for call, (code, out, err) in zip(CALLS, run([(*call, "--help") for call in CALLS]), strict=True):
        assert (code, err) == (0, ""), call
        assert f"usage: {' '.join(call)} " in out
    for call, (code, out, err) in zip(CALLS, run([(*call, "--version") for call in CALLS]), strict=True):
        assert (code, err) == (0, ""), call
        assert re.fullmatch(rf"{call[0]} [\d.]+ \(Python [\d.]+, torch [\d.+a-z]+, timm .*\)\n", out)


EXTRACT = ("extract-features", "--out", "out", "--images", "images/train")
TRAIN = ("train-student", "--out", "out")


SEGMENT = (
    *("evaluate-student", "segment", "--images", "images/train"),
    *("--val-images", "images/test", "--val-masks", "images/test"),
)

ERRORS = (
    ((*EXTRACT, "--teacher", "clip"), 2, "unknown teacher 'clip' (did you mean clip-b16, clip-b32 or clip-l14?)"),
    ((*EXTRACT, "--teacher", "deit_tiny"), 2, "'deit_tiny' (did you mean deit-tiny?); known: clip-"),
    ((*EXTRACT, "--teacher", "timm:deit_tiny"), 2, "(did you mean deit_tiny_patch16_224, "),
    ((*EXTRACT, "--teacher", "deit-tiny", "--precision", "int6"), 2, "(did you mean int8, int4 or int2?)"),
    ((*EXTRACT, "--teacher", "deit-tiny", "--layers", "top"), 2, "layers 'top' is not understood (did you"),
    ((*EXTRACT, "--teacher", "deit-tiny", "--seeds", "3-1"), 2, "--seeds '3-1': the range 3-1 runs backwards"),
    ((*EXTRACT, "--teacher", "deit-tiny", "--teacher-weights", "none"), 1, "no weights file at none"),
    ((*EXTRACT[:-1], "nowhere", "--teacher", "deit-tiny"), 1, "nowhere: expected a folder of images"),
    ((*EXTRACT[:-1], "x/{0..3}.tar", "--teacher", "deit-tiny"), 1, "expected tars, found 4 of 4 missing"),
    ((*EXTRACT[:-1], "s3://x/y", "--teacher", "deit-tiny"), 2, "is a URL, where only the path of a file"),
    ((*EXTRACT, "--teacher", "deit-tiny", "--out", "images"), 1, "images: contains other files"),
    ((*EXTRACT, "--teacher", "deit-tiny", "--out", "/proc/x"), 1, "/proc/x: opening the folder for writing failed: "),
    ((*TRAIN, "--shards", "cache", "--out", "/proc/x"), 1, "/proc/x: opening the folder for writing failed: "),
    ((*EXTRACT, "--teacher", "deit-tiny", "--reuse", "nowhere"), 1, "nowhere: no manifest.json here"),
    ((*TRAIN, "--shards", "nowhere"), 1, "nowhere: no manifest.json here"),
    ((*TRAIN, "--shards", "cache", "--student", "vit-tiny"), 2, "(did you mean vit_tiny_patch16_224, "),
    ((*TRAIN, "--shards", "cache", "--resume", "nowhere"), 1, "nowhere: no such checkpoint; check --resume"),
    ((*TRAIN, "--shards", "cache", "--sweep", "nowhere.toml"), 2, "nowhere.toml: cannot be read"),
    ((*TRAIN, "--shards", "cache", "--recipe", "flowers"), 2, "(did you mean flowers-tiny-deit-tiny?)"),
    ((*TRAIN, "--shards", "cache", "--layer-weights", "linear"), 2, "(did you mean linear-decay?)"),
    (("feature-cache", "plan", *EXTRACT[1:], "--teacher", "clip"), 2, "(did you mean clip-b16, "),
    (("feature-cache", "show", "cache", "--picture", "x.bmp"), 2, "--picture x.bmp: expected a name that ends in"),
    (("feature-cache", "fidelity", "cache", "--plot", "x"), 2, "--plot x: expected a name that ends in one of .png, "),
    (("feature-cache", "show", "nowhere"), 1, "nowhere: no manifest.json here"),
    (("feature-cache", "drift", "nowhere"), 1, "nowhere: no manifest.json here"),
    (("feature-cache", "drift", "cache", "--teacher-weights", "none"), 1, "no weights file at none"),
    (("feature-cache", "fidelity", "nowhere"), 1, "nowhere: no manifest.json here"),
    (("feature-cache", "fidelity", "--teacher", "dino", "--images", "images"), 2, "(did you mean dino-s16, "),
    (("feature-cache", "convert", "nowhere", "out"), 1, "nowhere: no manifest.json here"),
    (("evaluate-student", "knn", "--images", "images", "--weights", "nowhere"), 1, "nowhere: expected a student's"),
    (("evaluate-student", "knn", "--images", "nowhere", "--teacher", "deit-tiny"), 1, "found no train/"),
    (("evaluate-student", "linear", "--images", "images", "--teacher", "deit"), 2, "mean deit-tiny, deit-base or"),
    (
        (*SEGMENT, "--masks", "nowhere", "--weights", "weights"),
        1,
        "nowhere: expected a folder of images, found nothing",
    ),
    ((*SEGMENT, "--masks", "images/test", "--weights", "none"), 1, "none: expected a student's weights"),
    ((*SEGMENT, "--masks", "images", "--weights", "weights"), 1, "train/a/1.png: expected a mask of the same name"),
    (
        ("evaluate-student", "finetune", "--images", "images", "--out", "o", "--untrained", "--student", "vit-t"),
        2,
        "(did you mean vit_tiny_patch16_224, ",
    ),
)


def test_errors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    ended = run([call for call, _, _ in ERRORS])
    for (call, expected, words), (code, out, err) in zip(ERRORS, ended, strict=True):
        assert (code, out) == (expected, ""), (call, err)
        assert err.count("\n") == 1, (call, err)  # nothing is announced that will not be done
        assert err.startswith("error: ")
        assert words in err
    assert not (folder / "out").exists()


ANNOUNCED = (
    ((*EXTRACT, "--teacher", "deit-tiny"), "extracting features of images/train with teacher deit-tiny "),
    ((*TRAIN, "--shards", "cache"), "training vit_base_patch16_224 from cache to out"),
    (("feature-cache", "plan", *EXTRACT[1:], "--teacher", "deit-tiny"), "planning an extraction of images/train"),
    (("feature-cache", "fidelity", "cache"), "measuring what precisions lose of the features in cache"),
    (("feature-cache", "fidelity", "--teacher", "deit-tiny", "--images", "images"), "measuring what precisions"),
    (("evaluate-student", "knn", "--images", "images", "--weights", "weights"), "evaluating weights on images"),
    (("evaluate-student", "linear", "--images", "images", "--teacher", "deit-tiny"), "evaluating teacher deit-tiny"),
    (("evaluate-student", "finetune", "--images", "images", "--out", "o", "--weights", "weights"), "evaluating"),
    ((*SEGMENT, "--masks", "images/train", "--weights", "weights"), "evaluating weights on images/train by segment"),
)


def test_what_is_done_is_said_before_anything_heavy_is_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for (call, line), (_, _, err) in zip(ANNOUNCED, run([call for call, _ in ANNOUNCED]), strict=True):
        first, *_, last = err.splitlines()
        assert first.startswith(line), call
        assert first.endswith("; loading torch and timm ...")
        assert "ModuleNotFoundError" in last  # where it would go on
