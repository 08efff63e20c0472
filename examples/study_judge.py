"""How good a student came out: k-NN on labelled images, and its loss on views it never saw."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lookonce.shared.errors import CheckpointError
from lookonce.train.checkpoints.checkpoint_file import load_checkpoint
from lookonce.train.checkpoints.resuming import find_checkpoint
from lookonce.train.config import TrainingConfig
from lookonce.train.data.sample_order import SampleOrder, SamplesOfStep
from lookonce.train.evaluation.encoders.encoder import encode_split
from lookonce.train.evaluation.encoders.pooling import Pool
from lookonce.train.evaluation.encoders.student_encoder import StudentEncoder, load_student
from lookonce.train.evaluation.knn import knn_predict
from lookonce.train.evaluation.labelled_images import open_labelled_images
from lookonce.train.evaluation.linear_probe.linear import evaluate_linear
from lookonce.train.evaluation.linear_probe.probe_config import LinearProbeConfig
from lookonce.train.records.metrics import read_metrics
from lookonce.train.setup import TrainingSetup, set_up, trainable
from lookonce.weights.device import resolve_device

NEIGHBOURS = (10, 20)
BATCH = 25
HELD_OUT_MASKS = {"held-out": 0.7, "held-out whole": 0.0}
"""Measures by the share of patches hidden: as in the released recipe, and none at all."""


def training_loss(config: TrainingConfig, _images: Path, _held_out: Path) -> dict[str, float]:
    """``training loss``: mean over the logged steps of the last tenth of the run; one step's hangs on its few views."""
    losses = [line["loss"] for line in read_metrics(Path(config.out) / "metrics.jsonl")]
    return {"training loss": statistics.fmean(losses[-max(1, len(losses) // 10) :])}


def knn(config: TrainingConfig, images: Path, _held_out: Path) -> dict[str, float]:
    """``knn POOL K``: share of the test images whose class is right."""
    labelled = open_labelled_images(images)
    encoder = _encoder(config, "cls+mean")
    train, test = (encode_split(encoder, split, BATCH).cpu() for split in (labelled.train, labelled.test))
    labels = torch.from_numpy(labelled.train.labels)
    truth = torch.from_numpy(labelled.test.labels)
    found = {}
    for name, part in (("cls", slice(None, train.shape[1] // 2)), ("mean", slice(train.shape[1] // 2, None))):
        for k in NEIGHBOURS:
            predicted = knn_predict(train[:, part], labels, test[:, part], k=k, classes=len(labelled.classes))
            found[f"knn {name} {k}"] = (predicted == truth).float().mean().item()
    return found


def linear(config: TrainingConfig, images: Path, _held_out: Path) -> dict[str, float]:
    """``linear``: share of the test images that a linear probe on the class token gets right."""
    encoder, labelled = _encoder(config, "cls"), open_labelled_images(images)
    result = evaluate_linear(encoder, labelled, LinearProbeConfig(), batch_size=BATCH)
    return {"linear": float(result["accuracy"])}


def _encoder(config: TrainingConfig, pool: Pool) -> StudentEncoder:
    """The run's student, where it was trained."""
    student = load_student(Path(config.out) / "student.safetensors")
    return StudentEncoder(student, pool=pool, device=resolve_device(config.device))


@torch.inference_mode()
def held_out(config: TrainingConfig, _images: Path, cache: Path) -> dict[str, float]:
    """``held-out``: the run's loss, without ``loss_scale``, on test views against exact targets, under attentive masks.

    The masks are the same for every run. ``held-out whole``: the same on whole views. With `` last`` behind: of the
    teacher's last block alone, which most runs of other layer weights align too.

    Raises:
        CheckpointError: the run's checkpoints are gone; its alignment is nowhere else.
    """
    checkpoint = find_checkpoint("auto", Path(config.out) / "checkpoints")
    if checkpoint is None:
        raise CheckpointError(f"{config.out}: the run's checkpoints are gone; choose another --out to train it again")
    state = load_checkpoint(checkpoint).state["module"]
    found = {}
    for name, ratio in HELD_OUT_MASKS.items():
        masks: Any = {"mask": "attentive", "mask_ratio": ratio}
        setup = set_up(
            replace(config, shards=(cache,), seed=0, seeds=None, batch_size=BATCH, readahead="none", **masks)
        )
        trainable(setup.model).load_state_dict(state)
        setup.model.eval()
        seeds, alignment = setup.input.caches.seeds, setup.model.alignments[0]
        order = SampleOrder(setup.input.caches.rows, seeds, run_seed=0, batch_size=BATCH, epochs=len(seeds))
        levels = [_level_losses(setup, order.step(step)) for step in range(order.total_steps)]
        mean_L = torch.cat(levels).mean(dim=0)
        found[name] = float((alignment.level_weights.cpu() * mean_L).sum())
        if alignment.teacher_blocks[-1] == setup.input.caches.first.manifest.recipe.teacher.block_count:
            found[f"{name} last"] = float(mean_L[-1])
    return found


def _level_losses(setup: TrainingSetup, samples: SamplesOfStep) -> Tensor:
    """Loss of each aligned level, (B, L): alike for all views of the batch, so that batches weigh by their views."""
    losses_L: Tensor = setup.model(setup.input.batches.batch(samples).to(setup.device)).level_losses.cpu()
    return losses_L.expand(len(samples.rows), -1)


Judge = Callable[[TrainingConfig, Path, Path], dict[str, float]]
"""From a finished run, the images' folder and the cache of views of the test images to measures by name."""

JUDGES: dict[str, Judge] = {"training": training_loss, "knn": knn, "held-out": held_out, "linear": linear}
"""What runs can be judged by; one that was not asked for before is added to the runs that are there."""
