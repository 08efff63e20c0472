"""Configs from Python: paths as text and numbers as numbers are what the commands make of their flags."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lookonce.extract.config import ExtractionConfig
from lookonce.shared.config_values import marked_fields
from lookonce.shared.errors import UsageError
from lookonce.train.batch_config import MAY_CHANGE, SAME_IN_SWEEP
from lookonce.train.config import TrainingConfig
from lookonce.train.model.alignment_config import AlignmentConfig


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


RUN: dict[str, Any] = {"shards": "a", "out": "run"}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "--epochs 0: must be at least 1"),
        ("max_steps", 0, "--max-steps 0: must be at least 1"),
        ("mask_ratio", 1.0, "--mask-ratio 1.0: must be at least 0 and below 1"),
        ("drop_path", -0.1, "--drop-path -0.1: must be at least 0 and below 1"),
        ("ema", 1.0, "--ema 1.0: must be above 0 and below 1"),
        ("base_lr", -1.0, "--base-lr -1.0: must be at least 0"),
        ("min_lr", float("inf"), "--min-lr inf: must be at least 0 and finite"),
        ("loss_scale", float("nan"), "--loss-scale nan: must be above 0 and finite"),
        ("batch_size", "64", "--batch-size '64': must be a number, at least 1"),
        ("mask", "atentive", r"unknown --mask 'atentive' \(did you mean attentive.*known: attentive, random"),
        ("mix_order", "mix", "unknown --mix-order 'mix'"),
        ("parallel", "ddq", "unknown --parallel 'ddq'"),
    ],
)
def test_a_value_that_the_type_of_its_field_excludes_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainingConfig(**RUN, **{field: value})


def test_no_number_of_a_run_goes_unchecked() -> None:
    plain = {field.name for field in dataclasses.fields(TrainingConfig) if re.search(r"\b(int|float)\b", field.type)}
    assert plain == {"ema", "teacher_loss_weights"}  # a range of its own; checked with the number of caches


def test_the_alignment_of_a_run_is_the_part_of_its_config() -> None:
    config = TrainingConfig(**RUN, layer_weights="top2", loss="l1", adapter="mlp")
    assert config.alignment_config() == AlignmentConfig(layer_weights="top2", loss="l1", adapter="mlp")


def test_markers_name_fields() -> None:
    may_change, same = marked_fields(TrainingConfig, MAY_CHANGE), marked_fields(TrainingConfig, SAME_IN_SWEEP)
    assert {"shards", "workers", "max_steps", "log_steps"} <= may_change
    assert not may_change & {"epochs", "batch_size", "seed", "student", "loss", "precision"}
    assert same - may_change == {"seeds", "seed", "batch_size", "epochs", "shuffle", "shuffle_shards"}
