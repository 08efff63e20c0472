"""A small supervised teacher, trained on the spot: stands for the weights that a hub would give."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from lookonce.shared.images.decode import decode_rgb
from lookonce.shared.sources import open_source
from lookonce.shared.views import ViewRecipe, apply_view, center_view, draw_view
from lookonce.train.model.student import Student

BATCH = 32
PEAK_LR = 2e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1


@dataclass(frozen=True, kw_only=True)
class TrainedTeacher:
    """What came of the training."""

    accuracy: float
    """Share of the test images that its own classifier gets right."""
    seconds: float
    """Wall time."""


def train_teacher(images: Path, weights: Path, *, name: str, view_size: int, epochs: int) -> TrainedTeacher:
    """Train a classifier on ``images/train`` and save it as safetensors under timm's parameter names.

    Args:
        images: folder with ``train/`` and ``test/`` class folders.
        weights: file to write.
        name: timm name of the model.
        view_size: side of the views in pixels.
        epochs: passes over the training images, a new view of every image each time.
    """
    begun = time.perf_counter()
    torch.manual_seed(0)
    recipe = ViewRecipe(size=view_size, scale=(0.6, 1.0), flip_probability=0.0)
    views, labels = _augmented_views(images / "train", recipe, epochs)
    model: Any = timm.create_model(name, img_size=view_size, num_classes=int(labels.max()) + 1)
    # Started as students are, sine-cosine positions and Xavier weights: from timm's own start it learns far slower.
    model.load_state_dict(Student(name, img_size=view_size).export_state(), strict=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.95))
    steps = epochs * math.ceil(len(labels) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        for rows in torch.split(torch.randperm(len(labels)), BATCH):
            logits = model(_normalise(views[epoch, rows.numpy()]))
            loss = functional.cross_entropy(logits, labels[rows], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    accuracy = _accuracy(model.eval(), images / "test", view_size)
    save_file(model.state_dict(), weights)
    return TrainedTeacher(accuracy=accuracy, seconds=time.perf_counter() - begun)


def _augmented_views(folder: Path, recipe: ViewRecipe, epochs: int) -> tuple[NDArray[np.uint8], Tensor]:
    """The views of every epoch, uint8 (epochs, images, size, size, 3), and the labels (images,)."""
    source = open_source(str(folder))
    entries = source.listing().entries
    views = np.empty((epochs, len(entries), recipe.size, recipe.size, 3), np.uint8)
    for row, entry in enumerate(entries):
        image = decode_rgb(source.read(entry), entry.key)
        for epoch in range(epochs):
            drawn = draw_view(recipe, key=entry.key, seed=epoch, source_height=image.height, source_width=image.width)
            views[epoch, row] = apply_view(image, drawn, recipe.size)
    return views, torch.tensor([entry.label for entry in entries])


def _normalise(views: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [-1, 1]: the statistics that timm gives for this model."""
    return torch.from_numpy(views).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


@torch.inference_mode()
def _accuracy(model: nn.Module, folder: Path, view_size: int) -> float:
    source = open_source(str(folder))
    entries = source.listing().entries
    views = np.stack([center_view(decode_rgb(source.read(entry), entry.key), view_size) for entry in entries])
    labels = torch.tensor([entry.label for entry in entries])
    return float((model(_normalise(views)).argmax(1) == labels).float().mean())
