"""Warns before the first step if it does not fit a CPU's memory: the system kills such a process silently."""

from __future__ import annotations

import psutil
import torch
from torch import Tensor

from lookonce.shared.masking import visible_count
from lookonce.train.config import TrainingConfig
from lookonce.train.model.student import Student
from lookonce.train.setup import TrainingSetup


def memory_note(config: TrainingConfig, setup: TrainingSetup) -> str | None:
    """What to change if a step does not fit a CPU's memory; None if it fits, and on GPUs, which raise an error.

    Args:
        config: configuration of a run in one process.
        setup: the run.
    """
    if setup.device.type != "cpu":
        return None
    available = int(psutil.virtual_memory().available)
    recipe = setup.input.caches.first.manifest.recipe
    part = -(-config.batch_size // config.accumulate)
    visible = visible_count(recipe.patches, setup.input.masks.ratio)
    needed = part * activation_bytes(setup.model.student, visible, half=setup.precision == "bf16")
    if needed < available:
        return None
    parts = config.accumulate
    while needed * config.accumulate / parts > available / 2 and parts < config.batch_size:
        parts *= 2
    needed_gb, available_gb, advised = needed / 1e9, available / 1e9, min(parts, config.batch_size)
    return (
        f"a step's activations of {part} views need at least {needed_gb:.0f} GB and {available_gb:.0f} GB are free: "
        f"the system may kill this run. --accumulate {advised} makes the same steps of smaller parts; "
        "--activation-checkpointing or a smaller --batch-size need less memory too"
    )


def activation_bytes(student: Student, visible: int, *, half: bool = False) -> int:
    """Bytes per view that the student's forward pass stores for the gradients; measured on views of zeros.

    Args:
        student: on a CPU.
        visible: number of visible patches.
        half: whether it computes in bf16.
    """
    one, two = (_stored_bytes(student, views, visible, half=half) for views in (1, 2))
    return two - one  # weights and their copies cancel


def _stored_bytes(student: Student, views: int, visible: int, *, half: bool) -> int:
    stored: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    pixels = torch.zeros(views, visible, student.patch_size**2 * 3, dtype=torch.uint8)
    with (
        torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
    ):
        outputs = student(pixels, torch.arange(visible).expand(views, -1))  # alive: no address twice
    del outputs
    return sum(stored.values())
