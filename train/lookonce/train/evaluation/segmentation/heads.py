"""Heads of a segmentation: scores of patches for each class, from frozen features."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lookonce.train.evaluation.fit import fit
from lookonce.train.evaluation.fit_schedule import FitSchedule
from lookonce.train.evaluation.knn import TEMPERATURE, knn_votes
from lookonce.train.evaluation.linear_probe.probe_config import ProbeRecipe
from lookonce.train.evaluation.linear_probe.probe_head import LinearProbe
from lookonce.train.evaluation.linear_probe.probe_learner import ComputedFeatures, ProbeLearner
from lookonce.train.evaluation.segmentation.segment_config import SegmentConfig

COSINES = 1 << 25
"""Cosines in memory at a time, about 128 MB in float32."""

BATCH_SIZE = 1024
"""Patches per step of the linear head."""

WEIGHT_DECAY = 0.01

# Shapes: M training patches, B patches, D channels, C classes.


class Head(Protocol):
    """Gives scores of patches."""

    def __call__(self, features_BD: Tensor) -> Tensor:
        """Scores, float32 (B, C), of features float32 (B, D)."""
        ...


class KnnHead:
    """Votes of the nearest training patches, as ``knn_votes`` counts them, divided by their sum.

    Args:
        features_MD: float32, M at least 1.
        labels_M: int64, 0 to classes - 1, on the same device.
        k: neighbours.
        classes: number of classes.
    """

    def __init__(self, features_MD: Tensor, labels_M: Tensor, *, k: int, classes: int) -> None:
        self.train_MD = functional.normalize(features_MD, dim=1)
        self.labels_M, self.k, self.classes = labels_M, k, classes

    @torch.inference_mode()
    def __call__(self, features_BD: Tensor) -> Tensor:
        """Scores, float32 (B, C), which sum to 1, of features float32 (B, D)."""
        votes = [
            knn_votes(
                functional.normalize(part_bD, dim=1) @ self.train_MD.T, self.labels_M, self.k, self.classes, TEMPERATURE
            )
            for part_bD in torch.split(features_BD, max(1, COSINES // len(self.train_MD)))
        ]
        return functional.normalize(torch.cat(votes), p=1, dim=1)


class LinearHead:
    """Probabilities of a batch norm and a 1 x 1 convolution, which is a linear layer on each patch.

    Args:
        probe: trained, in evaluation mode.
    """

    def __init__(self, probe: LinearProbe) -> None:
        self.probe = probe

    @torch.inference_mode()
    def __call__(self, features_BD: Tensor) -> Tensor:
        """Scores, float32 (B, C), which sum to 1, of features float32 (B, D)."""
        scores: Tensor = self.probe(features_BD)
        return scores.softmax(dim=1)


def train_linear_head(features_MD: Tensor, labels_M: Tensor, config: SegmentConfig, classes: int) -> LinearHead:
    """Train a linear head by AdamW on the patches, each with its most frequent class.

    Args:
        features_MD: float32, M at least 2.
        labels_M: int64, 0 to classes - 1, on the same device.
        config: epochs, learning rate and seed.
        classes: number of classes.

    Raises:
        NumericalError: the loss is not finite.
        Interrupted: Ctrl-C or SIGTERM.
    """
    recipe = ProbeRecipe(
        optimizer="adamw",
        augment="none",
        epochs=config.epochs,
        warmup_epochs=config.epochs / 10,
        probe_batch_size=BATCH_SIZE,
        base_lr=config.base_lr,
        weight_decay=WEIGHT_DECAY,
    )
    schedule = FitSchedule(
        images=len(features_MD),
        batch_size=BATCH_SIZE,
        epochs=recipe.epochs,
        warmup_epochs=recipe.warmup_epochs,
        base_lr=recipe.base_lr,
        seed=config.seed,
    )
    probe = LinearProbe(features_MD.shape[1], classes, seed=config.seed).to(features_MD.device)
    fit(ProbeLearner(probe, recipe, ComputedFeatures(features_MD), labels_M), schedule, None)
    return LinearHead(probe.eval())
