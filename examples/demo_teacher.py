"""A small supervised teacher, trained on the spot in place of weights from a hub."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms
from torchvision.datasets import ImageFolder

from lookonce.api import Student

BATCH = 32
PEAK_LR = 2e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1


@dataclass(frozen=True, kw_only=True)
class TrainedTeacher:
    """Result of the training."""

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
        epochs: passes over the training images.
    """
    begun = time.perf_counter()
    torch.manual_seed(0)
    train, test = _open_images(images, view_size)
    model: Any = timm.create_model(name, img_size=view_size, num_classes=len(train.classes))
    # Sine-cosine positions and Xavier weights, as students have: with timm's initialisation it learns far slower.
    model.load_state_dict(Student(name, img_size=view_size).export_state(), strict=False)
    batches = torch.utils.data.DataLoader(train, batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LR, total_steps=epochs * len(batches), pct_start=0.15
    )
    for _ in range(epochs):
        for pixels, labels in batches:
            loss = functional.cross_entropy(model(pixels), labels, label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    accuracy = _accuracy(model.eval(), test)
    save_file(model.state_dict(), weights)
    return TrainedTeacher(accuracy=accuracy, seconds=time.perf_counter() - begun)


def _open_images(images: Path, view_size: int) -> tuple[ImageFolder, ImageFolder]:
    """The training images with random crops, and the test images; pixels are normalised to [-1, 1]."""
    bicubic = transforms.InterpolationMode.BICUBIC
    normalise = [transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]
    crop = transforms.RandomResizedCrop(view_size, scale=(0.6, 1.0), interpolation=bicubic)
    resize = transforms.Resize((view_size, view_size), interpolation=bicubic)
    return (
        ImageFolder(str(images / "train"), transforms.Compose([crop, *normalise])),
        ImageFolder(str(images / "test"), transforms.Compose([resize, *normalise])),
    )


@torch.inference_mode()
def _accuracy(model: nn.Module, images: ImageFolder) -> float:
    def right(batch: tuple[Tensor, Tensor]) -> int:
        pixels, labels = batch
        return int((model(pixels).argmax(1) == labels).sum())

    return sum(map(right, torch.utils.data.DataLoader(images, batch_size=BATCH))) / len(images)
