"""The keys of ``--json`` are a contract: every command's are pinned, nested ones too."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookonce.commands import evaluate_student, extract_features, feature_cache, train_student

PINNED = Path(__file__).parents[1] / "golden" / "json_keys.json"
COMMANDS = {
    "extract-features": extract_features.main,
    "feature-cache": feature_cache.main,
    "train-student": train_student.main,
    "evaluate-student": evaluate_student.main,
}


def keys(value: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of all keys; ``[]`` stands for the items of a list."""
    if isinstance(value, dict):
        for key, inner in value.items():
            place = f"{path}.{key}" if path else key
            yield place
            yield from keys(inner, place)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner, f"{path}[]")


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command with ``--json`` and compare the keys it prints with the pinned ones; returns the document."""

    def run(name: str, *arguments: object, code: int = 0) -> Any:
        command, *subcommand = name.split(" (")[0].split(" ")
        with pytest.raises(SystemExit) as ended:
            COMMANDS[command]([*subcommand, "--json", *map(str, arguments)])
        printed = capsys.readouterr()
        assert int(ended.value.code or 0) == code, printed.err
        document = json.loads(printed.out)
        found = sorted(set(keys(document)))
        if os.environ.get("LOOKONCE_PIN_OPTIONS"):  # after a deliberate change; note it in the changelog
            pinned = json.loads(PINNED.read_text()) if PINNED.exists() else {}
            PINNED.write_text(json.dumps({**pinned, name: found}, indent=1, sort_keys=True) + "\n")
        assert found == json.loads(PINNED.read_text())[name]
        return document

    return run


def test_extraction_and_everything_about_a_cache(
    check, tiny_arguments, tiny_weights: Path, tiny_images: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    check("feature-cache plan", *tiny_arguments(cache), "--probe-seconds", 0.1)
    check("extract-features", *tiny_arguments(cache, precision="fp16"))
    check("extract-features (nothing to do)", *tiny_arguments(cache, precision="fp16"))
    check("feature-cache show", cache)
    check("feature-cache show (picture)", cache, "--picture", tmp_path / "views.png", "--samples", 2)
    check("feature-cache verify", cache, "--full")
    check("feature-cache fidelity", cache, "--plot", tmp_path / "fidelity.svg")
    given = ("--teacher-weights", tiny_weights, "--images", tiny_images, "--view-size", 32, "--patch-size", 8)
    check("feature-cache fidelity (teacher)", "--teacher", "timm:vit_tiny_patch16_224", *given)
    check("feature-cache drift", cache, "--teacher-weights", tiny_weights, "--views", 4, "--device", "cpu")
    check("feature-cache convert", cache, tmp_path / "small", "--precision", "int4")
    next(path for path in (cache / "seed-0000" / "targets" / "c").rglob("*") if path.is_file()).write_bytes(b"")
    (cache / "stray.txt").touch()
    check("feature-cache verify (damaged)", cache, code=1)


def test_training(check, training_cache, tmp_path: Path) -> None:
    fast = ("--student", "test_vit", "--epochs", 1, "--batch-size", 8, "--warmup-epochs", 0, "--workers", 0)
    common = ("--shards", training_cache(), *fast, "--layer-weights", "top1", "--device", "cpu")
    check("train-student", "--out", tmp_path / "run", *common)
    sweep = tmp_path / "runs.toml"
    sweep.write_text('[[run]]\nname = "one"\n')
    check("train-student (sweep)", "--out", tmp_path / "sweep", *common, "--sweep", sweep)


def test_evaluation(check, tiny_weights: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for split in ("train", "test"):
        for name, grey in (("dark", 20), ("light", 220)):
            (images / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = np.full((40, 40, 3), grey + number, dtype=np.uint8)
                Image.fromarray(pixels).save(images / split / name / f"{number}.png")
    untrained = ("--untrained", "--student", "test_vit", "--view-size", 32, "--device", "cpu", "--images", images)
    check("evaluate-student knn", *untrained)
    teacher = ("--teacher", "timm:vit_tiny_patch16_224", "--teacher-weights", tiny_weights, "--patch-size", 8)
    check("evaluate-student knn (teacher)", *teacher, "--view-size", 32, "--device", "cpu", "--images", images)
    check("evaluate-student linear", *untrained, "--epochs", 1)
    for name in ("evaluate-student linear (out)", "evaluate-student linear (done)"):
        check(name, *untrained, "--epochs", 1, "--out", tmp_path / "probe")
    for name in ("evaluate-student finetune", "evaluate-student finetune (done)"):
        check(name, *untrained, "--epochs", 1, "--workers", 0, "--out", tmp_path / "tuned")


def test_segmentation(check, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        mask = np.repeat(np.array([[0, 1]], dtype=np.uint8), 32, axis=0).repeat(16, axis=1)
        Image.fromarray(mask).save(tmp_path / split / "masks" / "1.png")
        Image.fromarray(mask * 200).convert("RGB").save(tmp_path / split / "images" / "1.png")
    train = ("--images", tmp_path / "train" / "images", "--masks", tmp_path / "train" / "masks")
    val = ("--val-images", tmp_path / "test" / "images", "--val-masks", tmp_path / "test" / "masks")
    untrained = ("--untrained", "--student", "test_vit", "--view-size", 32, "--device", "cpu")
    check("evaluate-student segment", *train, *val, *untrained)
    check("evaluate-student segment (linear)", *train, *val, *untrained, "--head", "linear", "--epochs", 1)
