"""Whether a step fits a CPU's memory, asked before the first: the system ends what takes more, without a word."""

from __future__ import annotations

import psutil
import torch
from torch import Tensor

from lookonce.shared.masking import visible_count
from lookonce.train.config import TrainingConfig
from lookonce.train.model.student import Student
from lookonce.train.setup import TrainingSetup


def memory_note(config: TrainingConfig, setup: TrainingSetup) -> str | None:
    """What to change where a step on a CPU would not fit; None where it does, and on GPUs, which say so themselves.

    Args:
        config: of the run, in one process.
        setup: of the run.
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
        f"a step's activations of {part} views take {needed_gb:.0f} GB at least, and {available_gb:.0f} GB are "
        f"free: the system may end this run without a word. --accumulate {advised} makes the same steps of smaller "
        "parts; --activation-checkpointing or a smaller --batch-size take less too"
    )


def activation_bytes(student: Student, visible: int, *, half: bool = False) -> int:
    """Bytes that the student's forward keeps for the gradients, a view; measured on views of zeros.

    Args:
        student: on a CPU.
        visible: patches that it sees.
        half: whether it computes in bf16.
    """
    one, two = (_kept_bytes(student, views, visible, half=half) for views in (1, 2))
    return two - one  # without weights and their copies


def _kept_bytes(student: Student, views: int, visible: int, *, half: bool) -> int:
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    pixels = torch.zeros(views, visible, student.patch_size**2 * 3, dtype=torch.uint8)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
    ):
        outputs = student(pixels, torch.arange(visible).expand(views, -1))  # held, so that no address is used twice
    del outputs
    return sum(kept.values())
