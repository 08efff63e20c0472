"""A run that was stopped anywhere and continued gives the numbers of an uninterrupted one, to the last bit."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lookonce.shared.errors import CheckpointError
from lookonce.testing import check_exact_resume, check_same, logged_numbers, student_run
from lookonce.train.checkpoints.checkpoint_file import checkpoints_in, load_checkpoint
from lookonce.train.config import TrainingConfig
from lookonce.train.run import train_student

KILLER = Path(__file__).parent / "kill_runs.py"

RECIPE: dict[str, Any] = {
    "student": "test_vit",
    "layer_weights": "top2",
    "epochs": 4,
    "batch_size": 4,
    "base_lr": 0.05,
    "log_steps": 1,
    "workers": 2,
    "device": "cpu",
    "drop_path": 0.3,
    "target_norm": "bn",
}
"""11 steps over the 11 samples of ``training_cache``, batches across epochs, stochastic depth, a last smaller batch."""


def train(cache: Path, run: Path, **changes: Any) -> Path:
    train_student(TrainingConfig(shards=(cache,), out=run, **{**RECIPE, **changes}), show_progress=False)
    return run


def check_same_run(one: Path, other: Path) -> None:
    check_same(student_run(one), student_run(other))


def check_stopped(run: Path, steps: int) -> None:
    assert not (run / "student.safetensors").exists()
    assert [line["step"] for line in logged_numbers(run)] == list(range(steps))


@pytest.fixture(scope="module")
def trained_once(
    write_training_cache: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("trained")
    cache = write_training_cache(folder / "cache")
    return cache, train(cache, folder / "uninterrupted")


@pytest.fixture
def uninterrupted(trained_once: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A cache, not to be changed, and a copy of the run that nothing disturbed."""
    cache, run = trained_once
    return cache, shutil.copytree(run, tmp_path / "uninterrupted")


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"epochs": 2, "accumulate": 3, "workers": 0, "shuffle": "block", "shuffle_shards": 2}, 6),
        pytest.param({}, 11, marks=pytest.mark.slow),  # quick: the test of one run that stops before every step
    ],
)
def test_state_saved_before_every_step_restores_it(
    training_cache: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], steps: int
) -> None:
    one_kind = functools.partial(train, training_cache(), **changes)
    check_exact_resume(one_kind, tmp_path / "runs", steps=steps, outcome=student_run, check_stopped=check_stopped)
    assert len(logged_numbers(tmp_path / "runs" / "uninterrupted")) == steps


def test_a_window_of_shards_of_another_size_is_another_run(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache, other = training_cache("one", shard_size=4), training_cache("other", shard_size=3)
    train(cache, tmp_path / "run", max_steps=3, shuffle="block", shuffle_shards=2)
    with pytest.raises(CheckpointError, match=r"block_order.shard_size: the run has 4, now 3"):
        train(other, tmp_path / "run", shuffle="block", shuffle_shards=2)


def test_stopped_before_every_step_of_one_run(uninterrupted: tuple[Path, Path], tmp_path: Path) -> None:
    cache, expected = uninterrupted
    for stop in range(1, 12):
        train(cache, tmp_path / "run", max_steps=stop, workers=1 + stop % 3)
    check_same_run(expected, tmp_path / "run")


def test_any_kept_checkpoint_can_be_gone_on_from(uninterrupted: tuple[Path, Path], tmp_path: Path) -> None:
    cache, expected = uninterrupted
    run = train(cache, tmp_path / "run", checkpoint_steps=3)
    older, newest = checkpoints_in(run / "checkpoints")
    assert (older.name, newest.name) == ("step-000000009.pt", "step-000000011.pt")
    train(cache, run, resume=str(older), checkpoint_steps=1, max_steps=10)
    # the one written now stays, though a later one is there
    assert [path.name[-5:] for path in checkpoints_in(run / "checkpoints")] == ["09.pt", "10.pt", "11.pt"]
    check_same_run(expected, train(cache, run, resume=str(older)))


@pytest.mark.parametrize("log_steps", [3, 4])
def test_metrics_have_each_logged_step_once(uninterrupted: tuple[Path, Path], tmp_path: Path, log_steps: int) -> None:
    cache, expected = uninterrupted
    run = tmp_path / "run"
    for stop in (2, 5, 6, None):
        train(cache, run, max_steps=stop, log_steps=log_steps)
    logged = [line["step"] for line in logged_numbers(run)]
    assert logged == [*range(0, 11, log_steps), 10][: len(logged)]
    assert logged[-1] == 10
    assert logged_numbers(run) == [line for line in logged_numbers(expected) if line["step"] in logged]


def test_going_on_with_a_finished_run_changes_nothing(uninterrupted: tuple[Path, Path]) -> None:
    cache, run = uninterrupted
    before = (run / "student.safetensors").read_bytes(), (run / "metrics.jsonl").read_bytes()
    train(cache, run)
    assert before == ((run / "student.safetensors").read_bytes(), (run / "metrics.jsonl").read_bytes())


def test_a_metrics_line_cut_off_by_a_crash_is_written_anew(uninterrupted: tuple[Path, Path], tmp_path: Path) -> None:
    cache, expected = uninterrupted
    run = train(cache, tmp_path / "run", max_steps=5)
    with (run / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 5, "lo')
    check_same_run(expected, train(cache, run))


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"\0" * 40, b"3", b"{}", b'{"step": "1"}', b""])
def test_a_damaged_metrics_line_costs_no_other(uninterrupted: tuple[Path, Path], tmp_path: Path, damage: bytes) -> None:
    cache, expected = uninterrupted
    run = train(cache, tmp_path / "run", max_steps=5)
    first, others = (run / "metrics.jsonl").read_bytes().split(b"\n", 1)
    (run / "metrics.jsonl").write_bytes(first + b"\n" + damage + b"\n" + others)
    check_same_run(expected, train(cache, run))


@pytest.mark.parametrize("change", [{"level_loss": None}, {"level_loss": 3}, {"level_loss": {"9": 1}}, {"lr": "0.1"}])
def test_a_line_without_its_numbers_is_not_drawn(
    uninterrupted: tuple[Path, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    cache, expected = uninterrupted
    run = train(cache, tmp_path / "run", max_steps=5)
    first, *others = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([json.dumps({**json.loads(first), **change}), *others, ""]))
    train(cache, run)
    assert (run / "loss.png").is_file()
    assert (run / "student.safetensors").read_bytes() == (expected / "student.safetensors").read_bytes()


def test_what_a_crash_left_half_written_is_no_obstacle(uninterrupted: tuple[Path, Path], tmp_path: Path) -> None:
    cache, expected = uninterrupted
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text('{"shards": [')
    partial = run / "checkpoints" / "step-000000003.pt.tmp-0123456789ab"
    partial.write_bytes(b"half")
    check_same_run(expected, train(cache, run))
    assert not partial.exists()


def test_seeds_extracted_meanwhile_are_not_slipped_into_a_run(
    training_cache: Callable[..., Path], tmp_path: Path
) -> None:
    one, two = training_cache("one", seeds=(0,)), training_cache("two", seeds=(0, 1))
    run = train(one, tmp_path / "run", max_steps=3)
    with pytest.raises(CheckpointError, match=r"seeds: the run has \[0\], now \[0, 1\]"):
        train(two, run)
    train(two, run, seeds="0")


def test_a_checkpoint_holds_tensors_and_plain_values_only(uninterrupted: tuple[Path, Path]) -> None:
    _, run = uninterrupted
    checkpoint = load_checkpoint(checkpoints_in(run / "checkpoints")[-1])
    assert checkpoint.step == 11
    assert checkpoint.config["student"] == "test_vit"
    assert checkpoint.data["samples"] == 11


@pytest.mark.parametrize(
    ("signal_name", "seed"),
    [
        ("SIGKILL", 0),
        *(pytest.param(*more, marks=pytest.mark.slow) for more in (("SIGKILL", 1), ("SIGTERM", 2), ("SIGINT", 3))),
    ],
)
def test_killed_at_random_moments(
    uninterrupted: tuple[Path, Path], tmp_path: Path, signal_name: str, seed: int
) -> None:
    cache, expected = uninterrupted
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in RECIPE.items()]
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            KILLER,
            cache,
            tmp_path / "run",
            signal_name,
            str(seed),
            "3" if seed == 0 else "5",
            json.dumps([*flags, "--checkpoint-steps=1"]),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    codes = json.loads(done.stdout.splitlines()[-1])
    assert set(codes) <= {0, -9 if signal_name == "SIGKILL" else 1}
    assert any(codes)  # some of them were met by the signal before they had ended
    if signal_name != "SIGKILL":
        assert done.stderr.count("error: stopped;") == codes.count(1) >= 1
    assert "Traceback" not in done.stderr
    check_same_run(expected, train(cache, tmp_path / "run"))
