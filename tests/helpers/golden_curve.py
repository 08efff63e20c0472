"""The run behind the committed loss curve, on any device: a cache that can be learned, and fifty steps over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lookonce.shared.randomness import random_uniform
from lookonce.train.config import TrainingConfig
from lookonce.train.records.metrics import read_metrics
from lookonce.train.run import train_student

CURVE = Path(__file__).resolve().parents[1] / "golden" / "loss_curve.json"
STEPS = 50
CACHE: dict[str, Any] = {"samples": 24, "shard_size": 8, "precision": "fp16"}
"""Sizes for the fixtures that write training caches; its numbers are ``fixed_numbers``."""


def fixed_numbers(manifest: Any, seed: int) -> dict[str, Any]:
    """A cache whose targets can be learned: a smooth function of the pixels; from our own generator, fixed for good."""
    samples, patches = manifest.samples, manifest.recipe.patches
    mean_colour = np.floor(random_uniform(samples * patches, "golden", seed) * 200).reshape(samples, patches, 1)
    texture = np.floor(random_uniform(768, "golden", "texture") * 50)
    pixels = (mean_colour + texture).astype(np.uint8)
    phase = (
        np.concatenate([mean_colour.mean(1, keepdims=True), mean_colour], axis=1)[..., None] / 200
    )  # (S, N + 1, 1, 1)
    frequency = np.arange(1, 1 + 2 * manifest.recipe.teacher.width).reshape(1, 1, 2, -1)
    return {
        "pixels": pixels,
        "targets": np.round(np.sin(phase * frequency), 2).astype(np.float16),
        "importance": (mean_colour[..., 0] + 1).astype(np.float32),
    }


def golden_config(cache: Path, run: Path, **changes: Any) -> TrainingConfig:
    """The run; fp32 on the CPU unless changed."""
    recipe: dict[str, Any] = {
        "student": "test_vit",
        "layer_weights": "top2",
        "adapter": "mlp2",
        "batch_size": 8,
        "epochs": 17,
        "max_steps": STEPS,
        "base_lr": 0.05,
        "drop_path": 0.1,
        "precision": "fp32",
        "device": "cpu",
        "log_steps": 1,
    }
    return TrainingConfig(shards=(cache,), out=run, **{**recipe, **changes})


def losses_of(config: TrainingConfig) -> list[float]:
    """Train to the end (or go on to it); the loss of every step."""
    train_student(config, show_progress=False)
    return [line["loss"] for line in read_metrics(config.out / "metrics.jsonl")]


def golden_losses() -> list[float]:
    """The committed curve."""
    losses: list[float] = json.loads(CURVE.read_text())["loss"]
    assert len(losses) == STEPS
    return losses
