"""A sweep: several students in lock-step, each the run that it would be alone, to the last bit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lookonce.shared.errors import Interrupted, StorageError, UsageError
from lookonce.train.checkpoints.checkpoint_file import Checkpoint, checkpoints_in, save_checkpoint
from lookonce.train.config import TrainingConfig
from lookonce.train.loop.trainer import Trainer
from lookonce.train.run import train_student
from lookonce.train.sweep.lockstep import train_sweep
from lookonce.train.sweep.sweep_file import read_sweep

RECIPE: dict[str, Any] = {
    "student": "test_vit",
    "layer_weights": "top2",
    "epochs": 4,
    "batch_size": 4,
    "base_lr": 0.05,
    "log_steps": 1,
    "device": "cpu",
    "drop_path": 0.3,
    "checkpoint_steps": 2,
}

RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hide": {"mask": "hide-attentive", "mask_ratio": 0.5, "adapter": "mlp2", "target_norm": "bn"},
    "slow.small": {"base-lr": 0.01, "layer_weights": "out", "student": "vit_tiny_patch16_224", "drop_path": 0.0},
}


def write_runs(path: Path, runs: dict[str, dict[str, Any]]) -> Path:
    path.write_text(json.dumps([{"name": name, **changes} for name, changes in runs.items()]))
    return path


def config(cache: Path, out: Path, **changes: Any) -> TrainingConfig:
    return TrainingConfig(shards=(cache,), out=out, **{**RECIPE, **changes})


def numbers(run: Path) -> list[Any]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [[line[name] for name in ("step", "epoch", "loss", "level_loss", "lr")] for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    assert numbers(one) == numbers(other)
    first, second = (load_file(run / "student.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def alone(training_cache: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """A cache, and the folder of the runs of ``RUNS``, each made by itself."""
    cache = training_cache()
    for name, changes in RUNS.items():
        changes = {key.replace("-", "_"): value for key, value in changes.items()}
        train_student(config(cache, tmp_path / "alone" / name, **changes), show_progress=False)
    return cache, tmp_path / "alone"


def test_each_student_is_that_of_its_own_run_whole_or_stopped_anywhere(
    alone: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, expected = alone
    file = write_runs(tmp_path / "runs.json", RUNS)
    summary = train_sweep(config(cache, tmp_path / "sweep"), file, show_progress=False)
    assert (list(summary.runs), summary.errors) == (list(RUNS), {})
    for name in RUNS:
        assert_same_run(tmp_path / "sweep" / name, expected / name)
        documents = [json.loads((root / name / "config.json").read_text()) for root in (tmp_path / "sweep", expected)]
        assert {key for key in documents[0] if documents[0][key] != documents[1][key]} == {"out", "starts"}

    # one run is ahead of the others, which are interrupted between two of them, then all go on
    train_student(config(cache, tmp_path / "cut" / "plain", max_steps=7), show_progress=False)
    stepped: list[int] = []
    advance = Trainer.advance

    def signalled(self: Trainer, *arguments: Any) -> None:
        stepped.append(self.step)
        if len(stepped) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        advance(self, *arguments)

    monkeypatch.setattr(Trainer, "advance", signalled)
    with pytest.raises(Interrupted):
        train_sweep(config(cache, tmp_path / "cut"), file, show_progress=False)
    assert stepped == [0, 0, 1, 1, 2, 2, 3, 3]  # those behind come first
    monkeypatch.undo()
    left = {name: max((tmp_path / "cut" / name / "checkpoints").glob("*.pt")).stem[-2:] for name in RUNS}
    assert left == {"plain": "07", "hide": "04", "slow.small": "03"}
    resumed = train_sweep(config(cache, tmp_path / "cut"), file, show_progress=False)
    assert [run.resumed_from_step for run in resumed.runs.values()] == [7, 4, 3]
    for name in RUNS:
        assert_same_run(tmp_path / "cut" / name, expected / name)


def test_a_run_that_diverges_ends_alone(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache = training_cache()
    file = write_runs(tmp_path / "runs.json", {"wild": {"base_lr": 1e30, "min_lr": 1.0}, "plain": {}})
    summary = train_sweep(config(cache, tmp_path / "sweep", warmup_epochs=0.0), file, show_progress=False)
    assert list(summary.errors) == ["wild"]
    assert "the loss of step" in summary.errors["wild"]
    assert summary.document()["exit_code"] == 1
    assert summary.runs["wild"].student_file is None
    train_student(config(cache, tmp_path / "alone", warmup_epochs=0.0), show_progress=False)
    assert_same_run(tmp_path / "sweep" / "plain", tmp_path / "alone")


def test_a_run_that_diverges_in_its_last_step_leaves_no_student(
    training_cache: Callable[..., Path], tmp_path: Path
) -> None:
    cache, one_step = training_cache(), {"epochs": 1, "batch_size": 16, "warmup_epochs": 0.0}
    file = write_runs(tmp_path / "runs.json", {"wild": {"base_lr": 1e300}, "plain": {}})
    summary = train_sweep(config(cache, tmp_path / "sweep", **one_step), file, show_progress=False)
    assert list(summary.errors) == ["wild"]
    assert "is not finite after step 0" in summary.errors["wild"]
    assert summary.runs["wild"].student_file is None
    assert not list((tmp_path / "sweep" / "wild").glob("**/*.safetensors"))
    assert not list((tmp_path / "sweep" / "wild").glob("checkpoints/*"))
    train_student(config(cache, tmp_path / "alone", **one_step), show_progress=False)
    assert_same_run(tmp_path / "sweep" / "plain", tmp_path / "alone")


def test_a_full_disk_under_one_run_leaves_a_checkpoint_of_the_others(
    training_cache: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, file = training_cache(), write_runs(tmp_path / "runs.json", {"full": {}, "plain": {}})

    def save(folder: Path, checkpoint: Checkpoint) -> Path:
        if folder.parent.name == "full":
            raise StorageError(f"{folder}: no space")
        return save_checkpoint(folder, checkpoint)

    monkeypatch.setattr("lookonce.train.loop.trainer.save_checkpoint", save)
    for out, settings, reached in (("middle", {}, 3), ("end", {"checkpoint_steps": 10**6}, 11)):
        with pytest.raises(StorageError, match="full/checkpoints: no space"):
            train_sweep(config(cache, tmp_path / out, **settings), file, show_progress=False)
        assert checkpoints_in(tmp_path / out / "plain" / "checkpoints")[-1].name == f"step-{reached:09d}.pt"


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    toml = tmp_path / "runs.toml"
    toml.write_text('[[run]]\nname = "a"\nbase-lr = 1\n[[run]]\nname = "b"\nstudent = "vit_tiny_patch16_224"\n')
    json_file = write_runs(tmp_path / "runs.json", {"a": {"base_lr": 1}, "b": {"student": "vit_tiny_patch16_224"}})
    base = config(tmp_path / "cache", tmp_path / "out")
    toml = toml.rename(tmp_path / "runs")  # all but .json is TOML
    found = read_sweep(toml, base)
    assert found == read_sweep(json_file, base)
    assert found["b"].out == tmp_path / "out" / "b"
    assert (found["a"].base_lr, found["b"].base_lr) == (1, 0.05)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('[{"name": "a", "batch_size": 8}]', "run 'a' sets batch_size, which all runs of a sweep share"),
        ('[{"name": "a", "seed": 8}]', "run 'a' sets seed, which all runs of a sweep share"),
        ('[{"name": "a", "shards": ["x"]}]', "give it once as --shards"),
        (
            '[{"name": "a", "lr": 8}]',
            "sets 'lr', which is no field of a run; known: activation_checkpointing, adapter, ",
        ),
        ('[{"name": "a", "base_lr": "8"}]', "run 'a': base_lr must be float, found '8'"),
        ('[{"name": "a", "base_lr": -1}]', "run 'a': --base-lr -1: must be at least 0"),
        ('[{"name": "a", "compile": 1}]', "run 'a': compile must be bool, found 1"),
        ('[{"name": "a", "mask": "some"}]', "run 'a': mask must be"),
        ('[{"name": "a"}, {"name": "a"}]', "two runs are named 'a'"),
        ('[{"name": "../a"}]', "run 1 needs a name of letters"),
        ("[3]", "run 1 needs a name of letters"),
        ("[]", "has no run"),
        ('{"name": "a"}', "is not a sweep: expected a list of runs, such as [{"),
        ('{"name": "a"}', "; found {'name': 'a'}"),
        ('[{"name": "a", "lengthen": true}]', "give it once as --lengthen"),
        ("[", "is not JSON"),
    ],
)
def test_what_is_no_sweep_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "runs.json"
    file.write_text(content)
    with pytest.raises(UsageError) as raised:
        read_sweep(file, config(tmp_path / "cache", tmp_path / "out"))
    assert str(raised.value).startswith(str(file))
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('[run]\nname = "a"\n', "[run]"),
        ('[[runs]]\nname = "a"\n', "[[runs]]"),
        ('epochs = 3\n[[run]]\nname = "a"\n', "epochs = 3, [[run]]"),
        ('[wide]\nadapter = "mlp"\n[deep]\n', "[wide], [deep]"),
    ],
)
def test_a_toml_file_of_another_form_is_told_what_is_expected(tmp_path: Path, content: str, found: str) -> None:
    file = tmp_path / "runs.toml"
    file.write_text(content)
    with pytest.raises(UsageError) as raised:
        read_sweep(file, config(tmp_path / "cache", tmp_path / "out"))
    assert "is not a sweep: expected a [[run]] for each run" in str(raised.value)
    assert str(raised.value).endswith(f"; found {found}")


def test_json_of_another_name_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "runs.yaml").write_text('[{"name": "a"}]')
    with pytest.raises(UsageError, match=r"runs\.yaml: is not TOML \(.*\); a sweep in JSON needs a name that ends in"):
        read_sweep(tmp_path / "runs.yaml", config(tmp_path / "cache", tmp_path / "out"))


def test_a_missing_file_and_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"runs\.json: cannot be read"):
        read_sweep(tmp_path / "runs.json", config(tmp_path / "cache", tmp_path / "out"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="start it without torchrun"):
        train_sweep(config(tmp_path / "cache", tmp_path / "out"), tmp_path / "runs.json")
