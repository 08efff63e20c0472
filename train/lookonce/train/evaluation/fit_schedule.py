"""The images and the learning rate of every step: functions of the step alone, so that resuming needs no state."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.randomness import random_permutation
from lookonce.train.loop.optimization import scaled_learning_rate
from lookonce.train.loop.schedule import StepSchedule

ORDER_VERSION = 1
"""Incremented whenever the same seed and epoch would give another order of images."""


@dataclass(frozen=True, kw_only=True)
class FitSchedule:
    """Epochs over labelled images: every image once per epoch, in batches whose sizes differ by at most one."""

    images: int
    """Training images, at least 1."""
    batch_size: int
    """Most images per step, at least 1."""
    epochs: int
    """Times each image is seen, at least 1."""
    warmup_epochs: float
    """Epochs of linear warm-up; fewer than ``epochs``."""
    base_lr: float
    """Learning rate for 256 images per step."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    seed: int = 0
    """Seed of the order."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch."""
        return math.ceil(self.images / self.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of all epochs."""
        return self.steps_per_epoch * self.epochs

    @functools.cached_property
    def steps(self) -> StepSchedule:
        """The learning rates: the peak is ``base_lr`` scaled by the images of a step over 256."""
        peak = scaled_learning_rate(self.base_lr, min(self.batch_size, self.images))
        return StepSchedule(
            total_steps=self.total_steps,
            warmup_steps=round(self.warmup_epochs * self.steps_per_epoch),
            peak=peak,
            min_lr=min(self.min_lr, peak),
        )

    def epoch(self, step: int) -> int:
        """The 0-based epoch of a step."""
        return step // self.steps_per_epoch

    def rows(self, step: int) -> NDArray[np.int64]:
        """Images of one step as positions in the listing, int64 (at most batch size,)."""
        order = _epoch_order(self.images, self.seed, self.epoch(step))
        return np.array_split(order, self.steps_per_epoch)[step % self.steps_per_epoch]


@functools.lru_cache(maxsize=2)
def _epoch_order(images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return random_permutation(images, "evaluation order", ORDER_VERSION, seed, epoch)
