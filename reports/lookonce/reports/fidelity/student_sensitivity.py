"""The effect of inexact targets on a student: the change of its smooth-L1 loss and of the gradient.

The student is a stand-in near convergence: it predicts the exact targets plus Gaussian noise of ``student_error`` times
each channel's standard deviation. The gradient is taken with respect to the predicted features,
where it enters the student. A student far from its teacher is less sensitive: where smooth L1 is quadratic, the change
of the gradient is the targets' error over the student's own. Only training shows the effect on accuracy.
"""

# Shapes: L layers, B views, n tokens, C channels.

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookonce.shared.randomness import random_words
from lookonce.train.model.losses import level_losses

LOSS = "smooth-l1"
STUDENT_ERROR = 0.5
"""Near convergence; a smooth-L1 loss of about 0.12 on LayerNormed targets."""


class TargetSensitivity:
    """Adds up losses and gradients over batches.

    Args:
        deviation: standard deviation of each (layer, channel), float (L, C).
        student_error: error of the student's predictions in standard deviations, above 0.
    """

    def __init__(self, deviation: NDArray[np.float64], *, student_error: float = STUDENT_ERROR) -> None:
        self._spread: NDArray[np.float32] = (student_error * deviation).astype(np.float32)
        self._batches = self._views = 0
        self._exact_loss = self._exact_gradient = 0.0
        self._losses: defaultdict[str, float] = defaultdict(float)
        self._changes: defaultdict[str, float] = defaultdict(float)

    def start_batch(self, exact: NDArray[np.float32]) -> None:
        """Predict exact targets, float32 (B, n, L, C); the noise is a function of the batch's number."""
        seed = random_words(4, "fidelity-student", self._batches)
        noise = np.random.Generator(np.random.Philox(seed)).standard_normal(exact.shape, dtype=np.float32)
        self._prediction = torch.from_numpy(exact + noise * self._spread)
        loss, self._gradient = self._loss_and_gradient(exact)
        self._batches, self._views = self._batches + 1, self._views + len(exact)
        self._exact_loss += loss
        self._exact_gradient += _square_norm(self._gradient)

    def add(self, name: str, restored: NDArray[np.float32]) -> None:
        """The same batch's targets as a precision restores them, float32 (B, n, L, C)."""
        loss, gradient = self._loss_and_gradient(restored)
        self._losses[name] += loss
        self._changes[name] += _square_norm(gradient.sub_(self._gradient))

    @property
    def student_loss(self) -> float:
        """The stand-in's loss against exact targets, mean over levels."""
        return self._exact_loss / self._views

    def changes(self, name: str) -> dict[str, Any]:
        """The effect of a precision on the student.

        Returns:
            ``loss_change`` (relative, signed: above 0 if the loss grows) and ``gradient_change`` (norm of the
            gradient's change over its norm).
        """
        return {
            "loss_change": self._losses[name] / self._exact_loss - 1,
            "gradient_change": math.sqrt(self._changes[name] / self._exact_gradient),
        }

    def _loss_and_gradient(self, targets: NDArray[np.float32]) -> tuple[float, Tensor]:
        """Loss times views, so that batches of all sizes add up, and its gradient by the predictions."""
        predictions = self._prediction.detach().requires_grad_()
        losses_L = level_losses(LOSS, predictions.movedim(2, 0), torch.from_numpy(targets).movedim(2, 0))
        loss = losses_L.mean() * len(targets)
        (gradient,) = torch.autograd.grad(loss, predictions)
        return float(loss.detach()), gradient


def _square_norm(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2
