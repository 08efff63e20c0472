"""train-student --init-weights: where the student starts, what is recorded, and that resuming does not read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lookonce.shared.errors import CheckpointError
from lookonce.train.config import TrainingConfig
from lookonce.train.model.student import Student
from lookonce.train.model.student_file import save_student
from lookonce.train.run import train_student
from lookonce.train.setup import set_up


def test_a_run_starts_from_weights_and_resumes_without_them(
    training_cache: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "start" / "student.safetensors"
    weights.parent.mkdir()
    save_student(Student("test_vit", img_size=64, seed=7), weights)
    options: dict[str, Any] = {
        "shards": (training_cache(),),
        "student": "test_vit",
        "layer_weights": "top2",
        "epochs": 2,
        "batch_size": 4,
        "log_steps": 1,
        "device": "cpu",
        "workers": 0,
        "init_weights": weights,
    }
    config = TrainingConfig(out=tmp_path / "run", **options)
    start, wanted = set_up(config).model.student.export_state(), load_file(weights)
    assert all(torch.equal(start[name], value) for name, value in wanted.items())

    train_student(TrainingConfig(out=tmp_path / "run", **options, max_steps=2))
    assert f"note: the student starts from {weights}" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init_weights"] == str(weights)
    whole = train_student(TrainingConfig(out=tmp_path / "whole", **options))

    weights.unlink()
    resumed = train_student(config)
    assert f"note: --init-weights {weights} is not read again: this run resumes" in capsys.readouterr().err
    assert (resumed.resumed_from_step, resumed.final_loss) == (2, whole.final_loss)
    with pytest.raises(CheckpointError, match="init_weights: the run has"):
        train_student(TrainingConfig(out=tmp_path / "run", **{**options, "init_weights": None}))
    with pytest.raises(CheckpointError, match="no weights file at"):
        train_student(TrainingConfig(out=tmp_path / "new", **options))
    assert not (tmp_path / "new").exists()
