"""A finished run is trained further when that is asked for, and what differs from a run of that length is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lookonce.shared.errors import CheckpointError, UsageError
from lookonce.testing import check_same, logged_numbers, student_run
from lookonce.train.config import TrainingConfig
from lookonce.train.run import train_student
from lookonce.train.summary import TrainingSummary
from lookonce.train.sweep.lockstep import train_sweep

RECIPE: dict[str, Any] = {
    "student": "test_vit",
    "layer_weights": "top2",
    "epochs": 4,
    "batch_size": 4,
    "base_lr": 0.05,
    "log_steps": 1,
    "workers": 0,
    "device": "cpu",
    "checkpoint_steps": 2,
}
"""11 steps over the 11 samples of ``training_cache``."""


def config(cache: Path, run: Path, **changes: Any) -> TrainingConfig:
    return TrainingConfig(shards=(cache,), out=run, **{**RECIPE, **changes})


def train(cache: Path, run: Path, **changes: Any) -> TrainingSummary:
    return train_student(config(cache, run, **changes), show_progress=False)


@pytest.fixture
def finished(training_cache: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    cache = training_cache()
    train(cache, tmp_path / "run")
    return cache, tmp_path / "run"


def test_more_epochs_follow_the_new_schedule_from_the_last_checkpoint_on(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, run = finished
    before = logged_numbers(run)
    with pytest.raises(CheckpointError, match=r"the run has --epochs 4, now 8; to train it further.*--lengthen"):
        train(cache, run, epochs=8)
    summary = train_student(config(cache, run, epochs=8, lengthen=True))
    assert (summary.resumed_from_step, summary.steps, summary.total_steps) == (11, 22, 22)
    after, whole = logged_numbers(run), tmp_path / "whole"
    assert after[:11] == before
    train(cache, whole, epochs=8)
    assert [line["lr"] for line in after[11:]] == [line["lr"] for line in logged_numbers(whole)[11:]]
    note = capsys.readouterr().err
    assert "note: --lengthen: a run of 4 becomes one of 8 epochs. From step 11 on" in note
    assert f"it was {before[-1]['lr']:.2e} in the last step and is {after[11]['lr']:.2e} in the next" in note
    document = json.loads((run / "config.json").read_text())
    assert document["epochs"] == 8
    assert document["lengthened"] == [{"at_step": 11, "epochs": 4, "to_epochs": 8}]


def test_a_lengthened_run_is_resumed_exactly_by_either_command(finished: tuple[Path, Path], tmp_path: Path) -> None:
    cache, run = finished
    whole = shutil.copytree(run, tmp_path / "whole")
    train(cache, whole, epochs=6, lengthen=True)
    train(cache, run, epochs=6, lengthen=True, max_steps=13)
    train(cache, run, epochs=6, lengthen=True, max_steps=15)  # the same command again
    train(cache, run, epochs=6)  # and without the flag, which the checkpoint does not need any more
    check_same(student_run(run), student_run(whole))
    train(cache, run, epochs=8, lengthen=True)
    lengthened = json.loads((run / "config.json").read_text())["lengthened"]
    assert [(one["at_step"], one["to_epochs"]) for one in lengthened] == [(11, 6), (17, 8)]


def test_what_cannot_be_lengthened_is_refused_and_left_alone(finished: tuple[Path, Path], tmp_path: Path) -> None:
    cache, run = finished
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="--epochs 3 is fewer than the 4 epochs of the run"):
        train(cache, run, epochs=3, lengthen=True)
    with pytest.raises(CheckpointError, match=r"the run has --epochs 4, now 3; give that number"):
        train(cache, run, epochs=3)
    with pytest.raises(CheckpointError, match=r"belongs to another run \(base_lr"):
        train(cache, run, epochs=8, lengthen=True, base_lr=0.1)
    with pytest.raises(UsageError, match="contains no run yet; leave --lengthen out"):
        train(cache, tmp_path / "new", epochs=8, lengthen=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UsageError, match="contains a student but no checkpoint"):
        train(cache, run, epochs=8, lengthen=True)


def test_a_sweep_is_lengthened_as_its_runs_are(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache, file = training_cache(), tmp_path / "runs.toml"
    file.write_text('[[run]]\nname = "plain"\n[[run]]\nname = "random"\nmask = "random"\n')
    train_sweep(config(cache, tmp_path / "sweep"), file, show_progress=False)
    train(cache, tmp_path / "alone", mask="random")
    with pytest.raises(CheckpointError, match="add --lengthen"):
        train_sweep(config(cache, tmp_path / "sweep", epochs=6), file, show_progress=False)
    train_sweep(config(cache, tmp_path / "sweep", epochs=6, lengthen=True), file, show_progress=False)
    train(cache, tmp_path / "alone", epochs=6, lengthen=True, mask="random")
    check_same(student_run(tmp_path / "sweep" / "random"), student_run(tmp_path / "alone"))


def test_a_finished_run_says_so_and_changes_no_file(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cache, run = finished
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    summary = train_student(config(cache, run))
    assert (
        ": finished, all 11 steps (--epochs 4) were done before; to train this run further" in capsys.readouterr().err
    )
    assert (summary.images_per_second, summary.input_wait_share) == (None, None)  # nothing was measured
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files  # TensorBoard's, too


def test_max_steps_may_be_raised_and_is_told_where_it_ends_nothing(
    training_cache: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, run = training_cache(), tmp_path / "run"
    assert train(cache, run, max_steps=3).steps == 3
    assert train(cache, run, max_steps=5).steps == 5
    train_student(config(cache, run, max_steps=4))
    assert (
        "5 of 11 steps were done before, which is not less than --max-steps 4; to resume, raise"
        in capsys.readouterr().err
    )
    train_student(config(cache, run, max_steps=50))
    assert (
        "note: --max-steps 50 is more than the 11 steps of --epochs 4, after which the run ends"
        in capsys.readouterr().err
    )
    train(cache, tmp_path / "whole")
    check_same(student_run(run), student_run(tmp_path / "whole"))
