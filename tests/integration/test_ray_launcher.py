"""train-student --launcher ray: the same run, started again when a process dies, ended when that would not help."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from lookonce.train.checkpoints.checkpoint_file import checkpoints_in
from lookonce.train.config import TrainingConfig
from lookonce.train.run import train_student

pytestmark = pytest.mark.slow

RECIPE: dict[str, Any] = {
    "student": "test_vit",
    "layer_weights": "top2",
    "epochs": 400,
    "batch_size": 4,
    "base_lr": 0.005,
    "log_steps": 1,
    "device": "cpu",
    "drop_path": 0.3,
    "warmup_epochs": 0.0,
    "checkpoint_steps": 20,
}
"""1100 steps over the 11 samples of ``training_cache``."""


@pytest.fixture
def on_ray(forks: Any) -> Callable[..., Any]:
    """Start a run of two processes on a local Ray."""

    def start(cache: Path, run: Path, **changes: Any) -> Any:
        options = {**RECIPE, "launcher": "ray", "processes_per_node": 2, **changes}
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        return forks.start([f"--shards={cache}", f"--out={run}", *flags, "--json"], command="train-student")

    return start


def logged(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def workers(running: Any) -> list[psutil.Process]:
    found = []
    for process in running.family():
        with suppress(psutil.NoSuchProcess):
            if (
                process.cmdline()[:1]
                and process.cmdline()[0].startswith("ray::")
                and "TrainWorker" in process.cmdline()[0]
            ):
                found.append(process)
    return found


def assert_gone(family: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive  # no process of Ray outlives the command


def test_a_killed_process_is_replaced_and_the_run_is_the_same(
    on_ray: Callable[..., Any], training_cache: Callable[..., Path], tmp_path: Path
) -> None:
    cache, run = training_cache(), tmp_path / "run"
    running = on_ray(cache, run, resume="never")
    running.until(lambda: len(logged(run)) >= 50, patience=600)
    family, victims = running.family(), workers(running)
    assert len(victims) == 2
    victims[1].kill()
    ended = running.wait()
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert result["steps"] == result["total_steps"] == 1100
    assert 0 < result["resumed_from_step"] < 1100  # though it was told --resume never: that was for its first start
    assert_gone(family)
    train_student(TrainingConfig(shards=(cache,), out=tmp_path / "alone", **RECIPE), show_progress=False)
    losses = [[line["loss"] for line in logged(folder)] for folder in (run, tmp_path / "alone")]
    assert losses[0][:200] == pytest.approx(losses[1][:200], rel=1e-3)  # rounding grows with the steps
    assert losses[0][-1] == pytest.approx(losses[1][-1], rel=0.1)
    assert not list(run.glob("ray*"))


def test_a_damaged_cache_ends_the_run_at_once_with_its_sentence(
    on_ray: Callable[..., Any], training_cache: Callable[..., Path], tmp_path: Path
) -> None:
    cache = training_cache(shard_size=10)
    pixels = cache / "seed-0000" / "pixels" / "c" / "1" / "0" / "0"
    content = pixels.read_bytes()
    pixels.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    ended = on_ray(cache, tmp_path / "run").wait()
    assert ended.code == 1
    assert "pixels/c/1/0/0" in ended.sentence
    assert "was lost" not in ended.err
    refused = on_ray(cache, tmp_path / "other", student="resnet10t").wait()
    assert refused.code == 2
    assert "does not fit" in refused.sentence
    assert not (tmp_path / "other").exists()


def test_sigterm_leaves_a_checkpoint_of_the_last_step(
    on_ray: Callable[..., Any], training_cache: Callable[..., Path], tmp_path: Path
) -> None:
    cache, run = training_cache(), tmp_path / "run"
    running = on_ray(cache, run)
    running.until(lambda: len(logged(run)) >= 30, patience=600)
    family = running.family()
    running.interrupt(signal.SIGTERM)
    ended = running.wait()
    assert ended.code == 1
    assert "run the same command again to resume" in ended.sentence
    assert checkpoints_in(run / "checkpoints")[-1].name == f"step-{len(logged(run)):09d}.pt"
    assert len(logged(run)) < 1100
    assert_gone(family)


def test_a_run_that_dies_again_and_again_ends_with_a_sentence(
    on_ray: Callable[..., Any], training_cache: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    running = on_ray(training_cache(), run, max_restarts=0)
    running.until(lambda: len(logged(run)) >= 10, patience=600)
    workers(running)[0].kill()
    ended = running.wait()
    assert ended.code == 1
    assert "lost processes more than 0 times (--max-restarts)" in ended.sentence
