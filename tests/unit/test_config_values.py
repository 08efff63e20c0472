"""Configs from Python: paths as text and numbers as numbers are what the commands make of their flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lookonce.extract.config import ExtractionConfig
from lookonce.shared.errors import UsageError
from lookonce.train.config import TrainingConfig


def test_an_extraction_takes_paths_as_text_and_numbers() -> None:
    given: dict[str, Any] = {
        "images": Path("images"),
        "out": "cache",
        "reuse": "other",
        "teacher_weights": "w.safetensors",
        "seeds": 3,
        "workers": 2,
    }
    same = ExtractionConfig(
        teacher="deit-tiny",
        images="images",
        out=Path("cache"),
        reuse=Path("other"),
        teacher_weights=Path("w.safetensors"),
        seeds="3",
        workers="2",
    )
    assert ExtractionConfig(teacher="deit-tiny", **given) == same
    with pytest.raises(UsageError, match="--workers 0: must be auto or a number above 0"):
        ExtractionConfig(teacher="deit-tiny", **{**given, "workers": 0})


@pytest.mark.parametrize("shards", ["a", Path("a"), ["a"], (Path("a"),)])
def test_a_training_takes_paths_as_text_and_numbers(shards: Any) -> None:
    given: dict[str, Any] = {"shards": shards, "out": "run", "seeds": 1, "images": Path("i"), "resume": Path("x.pt")}
    config = TrainingConfig(**given)
    assert config == TrainingConfig(shards=(Path("a"),), out=Path("run"), seeds="1", images="i", resume="x.pt")
    assert json.loads(json.dumps(config.document()))["shards"] == ["a"]
