"""A process of a run that dies, fails or is told to stop ends the run in all: soon, with one sentence, resumable."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from lookonce.train.checkpoints.checkpoint_file import checkpoints_in
from lookonce.train.config import TrainingConfig
from lookonce.train.run import train_student

RECIPE: dict[str, Any] = {
    "student": "test_vit",
    "layer_weights": "top2",
    "epochs": 60,
    "batch_size": 4,
    "base_lr": 0.01,
    "log_steps": 1,
    "device": "cpu",
    "drop_path": 0.3,
    "warmup_epochs": 0.0,
    "checkpoint_steps": 7,
}
"""165 steps over the 11 samples of ``training_cache``."""

SOON = 60.0
"""Seconds in which all processes are gone; the processes have 10 minutes for one that is merely slow."""


@pytest.fixture
def two(start_processes: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Start a run of two processes, without a launcher that cleans up behind them."""
    return lambda cache, run, **changes: start_processes(2, cache, run, **{**RECIPE, **changes})


def logged(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def kept_step(run: Path) -> int:
    return int(checkpoints_in(run / "checkpoints")[-1].stem.removeprefix("step-"))


def silent(ended: Any) -> bool:
    """A process that ended with 1 and without a word of its own."""
    return ended.code == 1 and "error:" not in ended.err and "Traceback" not in ended.err


def assert_ends_like_a_run_of_one(two: Callable[..., list[Any]], cache: Path, run: Path, **changes: Any) -> None:
    for process in two(cache, run, **changes):
        ended = process.wait()
        assert ended.code == 0, ended.err
    alone = run.with_name("alone")
    train_student(TrainingConfig(shards=(cache,), out=alone, **RECIPE), show_progress=False)
    losses = [[line["loss"] for line in logged(folder)] for folder in (run, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    first, second = (load_file(folder / "student.safetensors") for folder in (run, alone))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_run_and_it_goes_on_from_the_last_checkpoint(
    two: Callable[..., list[Any]], training_cache: Callable[..., Path], tmp_path: Path, victim: int
) -> None:
    cache, run, chance = training_cache(), tmp_path / "run", random.Random(victim)
    processes, wanted = two(cache, run), chance.randrange(8, 60)
    processes[victim].until(lambda: len(logged(run)) >= wanted)
    time.sleep(chance.random() * 0.02)
    killed = time.monotonic()
    processes[victim].interrupt(signal.SIGKILL)
    assert processes[victim].wait().code == -signal.SIGKILL
    survivor = processes[1 - victim].wait()
    assert time.monotonic() - killed < SOON
    assert survivor.code == 1
    assert "another process of this run does not answer" in survivor.sentence
    if victim == 1:  # the one that writes has lost no step
        assert kept_step(run) == len(logged(run))
    assert wanted - 8 <= kept_step(run) < 165
    assert_ends_like_a_run_of_one(two, cache, run)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGTERM, (1,)),
        pytest.param(signal.SIGINT, (0, 1, 0, 1), marks=pytest.mark.slow),
    ],
)
def test_a_stop_stops_all_together_behind_a_checkpoint(
    two: Callable[..., list[Any]],
    training_cache: Callable[..., Path],
    tmp_path: Path,
    number: signal.Signals,
    told: tuple[int, ...],
) -> None:
    """One process alone is told; or both are, twice, as by a terminal and torchrun."""
    cache, run = training_cache(), tmp_path / "run"
    processes = two(cache, run)
    processes[0].until(lambda: len(logged(run)) >= 10)
    for rank in told:
        processes[rank].interrupt(number)
    ended = [process.wait() for process in processes]
    speaker = told[0]
    assert ended[speaker].code == 1
    assert "run the same command again to resume" in ended[speaker].sentence
    assert silent(ended[1 - speaker]), ended[1 - speaker].err
    assert kept_step(run) == len(logged(run)) < 165
    assert_ends_like_a_run_of_one(two, cache, run, workers=0)


def test_damage_met_by_one_process_is_told_by_that_one_alone(
    two: Callable[..., list[Any]], training_cache: Callable[..., Path], tmp_path: Path
) -> None:
    cache = training_cache(shard_size=10)  # the second shard holds one sample
    pixels = cache / "seed-0000" / "pixels" / "c" / "1" / "0" / "0"
    content = pixels.read_bytes()
    pixels.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    ended = [process.wait() for process in two(cache, tmp_path / "run")]
    speakers = [rank for rank in range(2) if not silent(ended[rank])]
    assert len(speakers) == 1, [one.err for one in ended]
    assert "pixels/c/1/0/0" in ended[speakers[0]].sentence
    assert kept_step(tmp_path / "run") == len(logged(tmp_path / "run"))


def test_what_is_wrong_for_all_is_said_once(
    two: Callable[..., list[Any]], training_cache: Callable[..., Path], tmp_path: Path
) -> None:
    ended = [process.wait() for process in two(training_cache(), tmp_path / "run", student="resnet10t")]
    assert ended[0].code == 2
    assert "does not fit" in ended[0].sentence
    assert silent(ended[1]), ended[1].err
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_busy_is_left_alone_by_all(
    two: Callable[..., list[Any]], training_cache: Callable[..., Path], tmp_path: Path
) -> None:
    cache, run = training_cache(), tmp_path / "run"
    first = two(cache, run)
    first[0].until(lambda: logged(run))
    second = [process.wait() for process in two(cache, run)]
    assert "another train-student is writing to this run" in second[0].sentence
    assert silent(second[1])
    first[0].interrupt(signal.SIGTERM)
    assert [process.wait().code for process in first] == [1, 1]


def test_a_run_told_a_file_that_is_started_again_before_its_own_first_checkpoint_goes_on_from_that_file(
    training_cache: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = TrainingConfig(shards=(training_cache(),), out=tmp_path / "old", **{**RECIPE, "epochs": 4})
    train_student(replace(recipe, max_steps=3), show_progress=False)
    told = replace(recipe, out=tmp_path / "new", resume=str(checkpoints_in(tmp_path / "old" / "checkpoints")[-1]))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert train_student(replace(told, max_steps=5), show_progress=False).resumed_from_step == 3
    assert train_student(told, show_progress=False).resumed_from_step == 5  # its own
    never = replace(told, out=tmp_path / "never", resume="never")
    assert train_student(replace(never, max_steps=2), show_progress=False).resumed_from_step == 0
    assert train_student(never, show_progress=False).resumed_from_step == 2


@pytest.mark.slow
def test_torchrun_starts_the_run_again_from_the_newest_checkpoint(
    training_cache: Callable[..., Path], tmp_path: Path
) -> None:
    cache, run = training_cache(), tmp_path / "run"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**RECIPE, "resume": "never"}.items()]
    command = str(Path(sys.executable).with_name("train-student"))
    torchrun = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node=2",
            "--max-restarts=1",
            "--rdzv-backend=c10d",
            "--rdzv-endpoint=localhost:0",
            command,
            f"--shards={cache}",
            f"--out={run}",
            *flags,
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while len(logged(run)) < 30 and torchrun.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    children = [child for child in psutil.Process(torchrun.pid).children() if command in child.cmdline()]
    assert len(children) == 2
    children[1].kill()
    _, errors = torchrun.communicate(timeout=240)
    assert torchrun.returncode == 0, errors
    assert [line["step"] for line in logged(run)] == list(range(165))
    assert (run / "student.safetensors").is_file()
