"""The same run on any number of processes and passes: equal up to the rounding of sums in another order."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lookonce.shared.errors import CheckpointError
from lookonce.testing import check_same, student_run
from lookonce.train.checkpoints.checkpoint_file import checkpoints_in
from lookonce.train.config import TrainingConfig
from lookonce.train.run import train_student

RECIPE: dict[str, Any] = {
    "student": "test_vit",
    "layer_weights": "top2",
    "epochs": 4,
    "batch_size": 4,
    "base_lr": 0.01,
    "log_steps": 1,
    "device": "cpu",
    "drop_path": 0.3,
    "target_norm": "bn",
    "warmup_epochs": 0.0,
}
"""11 steps over the 11 samples of ``training_cache``: batches across epochs, a last one of fewer samples than parts."""


def alone(cache: Path, run: Path, **changes: Any) -> Path:
    train_student(TrainingConfig(shards=(cache,), out=run, **{**RECIPE, **changes}), show_progress=False)
    return run


def torchrun(processes: int, cache: Path, run: Path, **changes: Any) -> subprocess.CompletedProcess[str]:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**RECIPE, **changes}.items()]
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nproc-per-node={processes}",
            "--rdzv-backend=c10d",
            "--rdzv-endpoint=localhost:0",
            str(Path(sys.executable).with_name("train-student")),
            f"--shards={cache}",
            f"--out={run}",
            *flags,
        ],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_but_for_rounding(one: Path, other: Path) -> None:
    assert losses(one) == pytest.approx(losses(other), rel=2e-5)
    first, second = (load_file(run / "student.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("accumulate", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_accumulation_changes_nothing_but_rounding(
    training_cache: Callable[..., Path], tmp_path: Path, accumulate: int
) -> None:
    cache = training_cache()
    expected = alone(cache, tmp_path / "whole")
    assert_same_but_for_rounding(alone(cache, tmp_path / "parts", accumulate=accumulate), expected)


def test_two_processes_and_a_run_resumed_from_one_on_two(
    training_cache: Callable[..., Path], tmp_path: Path, start_processes: Callable[..., list[Any]]
) -> None:
    """The first by their environment alone, the second by torchrun, which takes the imports of torch three times."""
    cache = training_cache()
    expected = alone(cache, tmp_path / "alone")
    two = [process.wait() for process in start_processes(2, cache, tmp_path / "two", **RECIPE)]
    assert [ended.code for ended in two] == [0, 0], two
    assert two[0].out.startswith("step 11 of 11")
    assert not two[1].out  # one process tells the result
    assert_same_but_for_rounding(tmp_path / "two", expected)
    alone(cache, tmp_path / "resumed", max_steps=5)
    started = torchrun(2, cache, tmp_path / "resumed", accumulate=2)
    assert started.returncode == 0, started.stderr
    assert_same_but_for_rounding(tmp_path / "resumed", expected)


KINDS = [
    ("fsdp", "sharded"),
    *(pytest.param(*kind, marks=pytest.mark.slow) for kind in (("ddp", "sharded"), ("fsdp", "whole"))),
]


@pytest.mark.parametrize(("parallel", "checkpoint"), KINDS)
def test_pieces_and_copies_checkpoints_whole_and_sharded(
    training_cache: Callable[..., Path],
    tmp_path: Path,
    start_processes: Callable[..., list[Any]],
    parallel: str,
    checkpoint: str,
) -> None:
    """Two processes of a kind; then a run that is one process, two of the kind, and one process again."""
    cache = training_cache()
    expected = alone(cache, tmp_path / "alone")
    kind = {"parallel": parallel, "checkpoint": checkpoint}

    def two(run: Path, **changes: Any) -> Path:
        for process in start_processes(2, cache, run, **{**RECIPE, **kind, **changes}):
            ended = process.wait()
            assert ended.code == 0, ended.err
        return run

    assert_same_but_for_rounding(two(tmp_path / "two", checkpoint_steps=2), expected)
    assert len(checkpoints_in(tmp_path / "two" / "checkpoints")) == 2  # older ones are deleted, folders too
    mixed = alone(cache, tmp_path / "mixed", max_steps=3)
    two(mixed, max_steps=7, accumulate=2)
    newest = checkpoints_in(mixed / "checkpoints")[-1]
    assert (newest.name, newest.is_dir()) == (
        {"whole": "step-000000007.pt"}.get(checkpoint, "step-000000007"),
        checkpoint == "sharded",
    )
    assert not list((mixed / "checkpoints").glob("*.tmp-*"))
    assert_same_but_for_rounding(alone(cache, mixed), expected)


def test_sharded_checkpoints_of_one_process_go_on_to_the_last_bit(
    training_cache: Callable[..., Path], tmp_path: Path
) -> None:
    cache = training_cache()
    one_kind = functools.partial(alone, cache, checkpoint="sharded")
    expected = one_kind(tmp_path / "alone")
    for stop in (1, 4, 9):
        one_kind(tmp_path / "stopped", max_steps=stop)
    check_same(student_run(expected), student_run(one_kind(tmp_path / "stopped")))


def test_a_damaged_folder_of_pieces_is_named(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache = training_cache()
    run = alone(cache, tmp_path / "run", max_steps=2, checkpoint="sharded")
    newest = checkpoints_in(run / "checkpoints")[-1]
    (newest / ".metadata").unlink()
    with pytest.raises(CheckpointError, match="step-000000002: cannot be read as a checkpoint"):
        alone(cache, run)
    (newest / "checkpoint.json").unlink()
    with pytest.raises(CheckpointError, match="step-000000002: cannot be read as a checkpoint"):
        alone(cache, run)
