"""A loss curve of 50 steps, committed: it stays as it is until a change says otherwise.

Losses are compared to 1e-5 relative, not to the last bit: matrix products add up in another order on other processors
and in other versions of the linear algebra library, and 50 steps carry such rounding (about 1e-7 a step) along.
Bit-exactness on one machine is what test_training_resume.py shows.

Write the file anew: LOOKONCE_WRITE_GOLDEN=1 pytest tests/golden/test_loss_curve_golden.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lookonce.shared.randomness import random_uniform
from lookonce.train.config import TrainingConfig
from lookonce.train.metrics import read_metrics
from lookonce.train.run import train_student

CURVE = Path(__file__).with_name("loss_curve.json")
STEPS = 50


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def test_fifty_steps_of_loss(training_cache: Callable[..., Path], tmp_path: Path, one_thread: None) -> None:
    cache = training_cache(samples=24, shard_size=8, precision="fp16", make_arrays=fixed_numbers)
    config = TrainingConfig(
        shards=(cache,), out=tmp_path / "run", student="test_vit", layer_weights="top2", adapter="mlp2", batch_size=8,
        epochs=17, max_steps=STEPS, base_lr=0.05, drop_path=0.1, precision="fp32", device="cpu", log_steps=1,
    )  # fmt: skip
    train_student(config, show_progress=False)
    found = [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    if os.environ.get("LOOKONCE_WRITE_GOLDEN"):
        CURVE.write_text(json.dumps({"loss": found}, indent=1) + "\n")
    expected = json.loads(CURVE.read_text())["loss"]
    assert len(expected) == STEPS
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert expected[-1] < 0.7 * expected[0]
