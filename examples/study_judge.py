"""Measures of a trained student: its training loss, k-NN and a linear probe on labelled images, and held-out loss."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lookonce.api import (
    BatchConfig,
    CachedTargets,
    DynamicAlignment,
    LinearProbeConfig,
    Student,
    StudentEncoder,
    TrainingConfig,
    encode_split,
    evaluate_linear,
    knn_predict,
    load_alignment,
    load_student,
    open_cache,
    open_labelled_images,
    read_metrics,
)

NEIGHBOURS = (10, 20)
BATCH = 25
HELD_OUT_MASKS = {"held-out": 0.7, "held-out whole": 0.0}
"""Name of a measure -> share of hidden patches: that of the released recipe, and none."""


def training_loss(config: TrainingConfig, _images: Path, _held_out: Path) -> dict[str, float]:
    """``training loss``: mean over the logged steps of the last tenth of the run, as one step has few views."""
    losses = [line["loss"] for line in read_metrics(Path(config.out) / "metrics.jsonl")]
    return {"training loss": statistics.fmean(losses[-max(1, len(losses) // 10) :])}


def knn(config: TrainingConfig, images: Path, _held_out: Path) -> dict[str, float]:
    """``knn POOL K``: k-NN accuracy on the test images."""
    labelled = open_labelled_images(images)
    encoder = StudentEncoder(_student(config), pool="cls+mean", device=_device(config))
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
    """``linear``: accuracy of a linear probe on the class token."""
    encoder = StudentEncoder(_student(config), pool="cls", device=_device(config))
    result = evaluate_linear(encoder, open_labelled_images(images), LinearProbeConfig(), batch_size=BATCH)
    return {"linear": result.accuracy}


@torch.inference_mode()
def held_out(config: TrainingConfig, _images: Path, cache: Path) -> dict[str, float]:
    """``held-out``: the run's loss, without ``loss_scale``, on test views against fp16 targets, under attentive masks.

    All runs get the same masks. ``held-out whole`` is the loss on whole views. The measures that end in `` last`` take
    the teacher's last block alone, which most runs of other layer weights align too.

    Raises:
        CheckpointError: the run has no checkpoints, which contain its alignment.
    """
    device, found, seeds = _device(config), {}, open_cache(cache).seeds
    for name, ratio in HELD_OUT_MASKS.items():
        batches = CachedTargets(
            BatchConfig(
                shards=(cache,),
                batch_size=BATCH,
                epochs=len(seeds),
                mask="attentive",
                mask_ratio=ratio,
                readahead="none",
            ),
            alignment=config.alignment_config(),
            device=device,
        )
        student = _student(config).to(device).eval()
        alignment = load_alignment(config.out, student, batches.teachers[0]).to(device).eval()
        mean_L = _level_losses(student, alignment, batches)
        found[name] = float((alignment.level_weights.cpu() * mean_L).sum())
        if alignment.teacher_blocks[-1] == batches.teachers[0].block_count:
            found[f"{name} last"] = float(mean_L[-1])
    return found


def _level_losses(student: Student, alignment: DynamicAlignment, batches: CachedTargets) -> Tensor:
    """Loss of each aligned level, float32 (L,), mean over all views."""
    total, views = torch.zeros(len(alignment.teacher_blocks)), 0
    for batch in batches:
        features = student(batch["visible_pixels"], batch["visible_ids"])
        count = len(batch["visible_ids"])
        total += count * alignment(features, batch["targets"][0]).level_losses.cpu()
        views += count
    return total / views


def _student(config: TrainingConfig) -> Student:
    return load_student(Path(config.out) / "student.safetensors")


def _device(config: TrainingConfig) -> str:
    """The device that trained the run."""
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


Judge = Callable[[TrainingConfig, Path, Path], dict[str, float]]
"""Takes a finished run, the folder of images and the cache of test views; returns measures by name."""

JUDGES: dict[str, Judge] = {"training": training_loss, "knn": knn, "held-out": held_out, "linear": linear}
"""All judges by name. A judge that is added later is applied to existing runs too."""
