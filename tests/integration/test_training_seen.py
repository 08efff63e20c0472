"""What can be seen of a run: TensorBoard, the moving average, Weights & Biases, and where a first bad number is."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lookonce.shared.errors import NumericalError, UsageError
from lookonce.train.checkpoints.checkpoint_file import checkpoints_in, load_checkpoint
from lookonce.train.config import TrainingConfig
from lookonce.train.loop.diagnosis import BadValue, find_bad_value
from lookonce.train.run import train_student
from lookonce.train.setup import set_up

RECIPE: dict[str, Any] = {
    "student": "test_vit",
    "layer_weights": "top2",
    "epochs": 2,
    "batch_size": 4,
    "base_lr": 0.05,
    "log_steps": 1,
    "device": "cpu",
    "drop_path": 0.0,
    "warmup_epochs": 0.0,
}
"""6 steps."""


def config(cache: Path, run: Path, **changes: Any) -> TrainingConfig:
    return TrainingConfig(shards=(cache,), out=run, **{**RECIPE, **changes})


def train(cache: Path, run: Path, **changes: Any) -> Path:
    train_student(config(cache, run, **changes), show_progress=False)
    return run


@pytest.mark.filterwarnings("default")  # TensorBoard's reader warns of its own
def test_tensorboard_shows_losses_pace_input_wait_and_w(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    run = train(training_cache(), tmp_path / "run", checkpoint_steps=3)
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    scalars = {"loss", "level_loss/3", "level_loss/4", "lr", "epoch", "images_per_second", "input_wait_share"}
    assert set(events.Tags()["scalars"]) == scalars
    assert [event.step for event in events.Scalars("level_loss/3")] == list(range(6))
    images = events.Images("W/1")
    assert [image.step for image in images] == [0, 6]  # at the start and the end, and every 30 seconds between
    assert images[0].width > 400  # readable: with axes and names
    assert images[0].encoded_image_string != images[1].encoded_image_string


def test_the_moving_average_is_that_of_every_step_and_resumes_exactly(
    training_cache: Callable[..., Path], tmp_path: Path
) -> None:
    cache = training_cache()
    whole, stopped = train(cache, tmp_path / "whole", ema=0.8), tmp_path / "stopped"
    expected: dict[str, torch.Tensor] = {}
    for step in range(1, 7):
        train(cache, stopped, ema=0.8, max_steps=step)
        saved = load_checkpoint(checkpoints_in(stopped / "checkpoints")[-1]).state["module"]
        student = {n.removeprefix("student.model."): v for n, v in saved.items() if n.startswith("student.model.")}
        expected = {name: 0.8 * expected[name] + 0.2 * v if expected else v.clone() for name, v in student.items()}
    found = load_file(whole / "student-ema.safetensors")
    assert found.keys() == expected.keys() == load_file(whole / "student.safetensors").keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    for name in ("student.safetensors", "student-ema.safetensors"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes()
    assert (whole / "student.safetensors").read_bytes() != (whole / "student-ema.safetensors").read_bytes()
    without = train(cache, tmp_path / "without")
    assert (without / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()
    assert not (without / "student-ema.safetensors").exists()
    with pytest.raises(UsageError, match="--ema 1: must be above 0 and below 1"):
        config(cache, whole, ema=1)


class FakeWandb(types.ModuleType):
    """What of wandb is used, kept in lists."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: list[dict[str, Any]] = []
        self.lines: list[dict[str, float]] = []
        self.finished = 0

    def init(self, **arguments: Any) -> FakeWandb:
        self.started.append(arguments)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, line: dict[str, float]) -> None:
        self.lines.append(line)

    def finish(self) -> None:
        self.finished += 1


def test_weights_and_biases_gets_each_line_and_one_run_however_often_resumed(
    training_cache: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    cache = training_cache()
    for stop in (4, None):
        train(cache, tmp_path / "run", wandb="project", max_steps=stop)
    assert [line["step"] for line in fake.lines] == list(range(6))
    assert {"loss", "level_loss/3", "lr", "images_per_second"} < fake.lines[0].keys()
    first, second = fake.started
    assert (first["project"], first["name"], first["resume"]) == ("project", "run", "allow")
    assert first["id"] == second["id"]
    assert first["config"]["student"] == "test_vit"
    assert fake.finished == 2


def test_weights_and_biases_missing_is_said(
    training_cache: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"pip install 'lookonce\[wandb\]'"):
        train(training_cache(), tmp_path / "run", wandb="project")


def test_a_bad_stored_target_is_named_by_sample_seed_and_block(
    training_cache: Callable[..., Path], tmp_path: Path
) -> None:
    def one_bad(manifest: Any, seed: int) -> dict[str, Any]:
        generator = np.random.default_rng(seed)
        shape = (manifest.samples, 17, 2, 6)
        targets = generator.normal(size=shape).astype(np.float16)
        if seed == 1:
            targets[7, :, 1] = np.nan
        return {"targets": targets}

    cache = training_cache(precision="fp16", make_arrays=one_bad)
    with pytest.raises(NumericalError) as raised:
        train(cache, tmp_path / "run", log_steps=100)  # found at once, though no step but the first is logged
    sentence = str(raised.value)
    place = f"in the stored targets of block 4 of sample 'c1/näme-007.jpg', seed 1 ({cache})"
    assert f"is not finite (teacher blocks 4); first {place}" in sentence
    assert "feature-cache verify --full" in sentence
    assert "--base-lr" not in sentence


def test_a_student_to_blame_is_named_by_block_and_sample(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    setup = set_up(config(training_cache(), tmp_path / "run", drop_path=0.3))
    batch = setup.input.batches.batch(setup.input.order.step(0))
    names = setup.input.batches.names(setup.input.order.step(0))
    assert find_bad_value(setup.model, batch, names, setup.level_names) is None
    assert batch.branch_scales is not None
    batch.branch_scales[3, 0, 2] = float("inf")  # one sample, in the student's fourth block
    found = f"in sample {names[2]}, after block 4 of the student (targets are finite)"
    assert find_bad_value(setup.model, batch, names, setup.level_names) == BadValue(found)
    batch.branch_scales[3, 0, 2] = 1.0
    weight = setup.model.alignments[0].weight
    assert weight is not None
    with torch.no_grad():
        weight[1] = float("nan")
    bad = find_bad_value(setup.model, batch, names, setup.level_names)
    assert bad is not None
    assert bad.place.startswith("in every sample, such as ")
    assert "in the prediction of block 4" in bad.place
    assert not bad.stored
