"""What a run records of itself: config.json, the times in metrics.jsonl, and what TensorBoard shows."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lookonce.cache.read.reader import CacheReader
from lookonce.train.checkpoints.checkpoint_file import checkpoints_in
from lookonce.train.config import TrainingConfig
from lookonce.train.records.metrics import read_metrics
from lookonce.train.run import train_student

RECIPE: dict[str, Any] = {
    "student": "test_vit",
    "layer_weights": "top2",
    "epochs": 2,
    "batch_size": 4,
    "base_lr": 0.05,
    "log_steps": 1,
    "workers": 0,
    "device": "cpu",
}
"""6 steps over the 11 samples of ``training_cache``."""


def train(cache: Path, run: Path, *, command: str | None = None, **changes: Any) -> Path:
    config = TrainingConfig(shards=(cache,), out=run, **{**RECIPE, **changes})
    train_student(config, show_progress=False, command=command)
    return run


def config_of(run: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run / "config.json").read_text())
    return document


def board_of(run: Path) -> EventAccumulator:
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    board.Reload()
    return board


def test_config_names_the_caches_and_each_start(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache = training_cache()
    run = train(cache, tmp_path / "run", command="train-student --first", max_steps=2)
    train(cache, run, command="train-student --again", max_steps=4)
    train(cache, run, command="train-student --last", resume=str(run / "checkpoints/step-000000002.pt"))
    document = config_of(run)
    recipe = CacheReader(cache).manifest.recipe
    (described,) = document["caches"]
    assert (described["path"], described["fingerprint"]) == (str(cache), recipe.fingerprint)
    assert described["teacher"] == recipe.teacher.name
    starts = document["starts"]  # the second one's steps were thrown away
    assert [(one["command"], one["from_step"]) for one in starts] == [
        ("train-student --first", 0),
        ("train-student --last", 2),
    ]
    assert starts[0]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"lookonce", "python", "timm", "numpy", "zarr"} <= starts[0]["versions"].keys()
    assert starts[0]["processes"] == 1
    assert abs(datetime.now(UTC) - datetime.fromisoformat(starts[1]["time"])).total_seconds() < 600


def test_lines_hold_times_and_a_resumed_run_counts_on(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache = training_cache()
    run = train(cache, tmp_path / "run", max_steps=3)
    metrics = run / "metrics.jsonl"
    lines = [{**line, "elapsed_seconds": line["elapsed_seconds"] + 1000} for line in read_metrics(metrics)]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    train(cache, run)
    lines = read_metrics(metrics)
    assert all(abs((datetime.now(UTC) - datetime.fromisoformat(line["time"])).total_seconds()) < 600 for line in lines)
    elapsed = [line["elapsed_seconds"] for line in lines]
    assert elapsed == sorted(elapsed)
    assert 1000 < elapsed[0] <= elapsed[-1] < 1600


def test_a_run_of_an_earlier_version_is_resumed(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    """Its documents know neither the newer fields nor the caches and starts, its lines no times."""
    cache = training_cache()
    run = train(cache, tmp_path / "run", max_steps=3)
    (newest,) = checkpoints_in(run / "checkpoints")
    content = torch.load(newest, weights_only=True)
    old = {name: content["config"][name] for name in content["config"] if name not in ("lengthen", "shuffle_shards")}
    torch.save({**content, "config": old}, newest)
    (run / "config.json").write_text(json.dumps(old))
    metrics = run / "metrics.jsonl"
    lines = [
        {name: line[name] for name in line if name not in ("time", "elapsed_seconds")} for line in read_metrics(metrics)
    ]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    train(cache, run)
    assert [one["from_step"] for one in config_of(run)["starts"]] == [3]
    expected = train(cache, tmp_path / "expected")
    assert [line["loss"] for line in read_metrics(metrics)] == [
        line["loss"] for line in read_metrics(expected / "metrics.jsonl")
    ]


def test_tensorboard_shows_hyper_parameters_and_w_with_axes(
    training_cache: Callable[..., Path], tmp_path: Path
) -> None:
    cache = training_cache()
    run = train(cache, tmp_path / "run", max_steps=3)
    train(cache, run)
    board = board_of(run)
    plugin = board.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    values = HParamsPluginData.FromString(plugin).session_start_info.hparams
    assert (values["student"].string_value, values["batch_size"].number_value) == ("test_vit", 4)
    assert values["teachers"].string_value == CacheReader(cache).manifest.recipe.teacher.name.rpartition(":")[2]
    assert "config/text_summary" in board.Tags()["tensors"]
    images = board.Images("W/1")
    assert [image.step for image in images] == [0, 3, 6]  # a resumed run shows again where it began
    with Image.open(io.BytesIO(images[-1].encoded_image_string)) as picture:
        assert min(picture.size) > 250
    assert [event.step for event in board.Scalars("loss")] == list(range(6))


def test_a_running_average_over_too_few_steps_is_told(
    training_cache: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = {"shards": (training_cache(),), **RECIPE, "max_steps": 1}
    train_student(TrainingConfig(out=tmp_path / "long", ema=0.9999, **shared))
    said = capsys.readouterr().err
    assert "--ema 0.9999 averages over about 10,000 steps and the run has 6: 100.0% of student-ema" in said
    assert "with --ema 0.46 it would be 1%" in said
    train_student(TrainingConfig(out=tmp_path / "short", ema=0.46, **shared))
    assert "--ema" not in capsys.readouterr().err
