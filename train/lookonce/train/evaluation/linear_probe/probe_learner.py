"""Trains a linear probe by ``fit``, on features that are computed once or in every epoch."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lookonce.train.evaluation.fit_schedule import FitSchedule
from lookonce.train.evaluation.linear_probe.probe_config import ProbeRecipe
from lookonce.train.evaluation.linear_probe.probe_head import LinearProbe, probe_optimizer

# Shapes: B rows of a batch, M training rows, D channels, C classes.


class ProbeFeatures(Protocol):
    """Features of the training rows."""

    def of(self, rows: Tensor, epoch: int) -> Tensor:
        """Features, float32 (B, D), of rows int64 (B,) in an epoch."""
        ...


class ComputedFeatures:
    """Features that are the same in every epoch.

    Args:
        features_MD: float32.
    """

    def __init__(self, features_MD: Tensor) -> None:
        self.features_MD = features_MD

    def of(self, rows: Tensor, epoch: int) -> Tensor:
        """See ``ProbeFeatures``."""
        return self.features_MD[rows.to(self.features_MD.device)]


class ProbeLearner:
    """A ``Learner`` of ``fit``.

    Args:
        probe: the head to train.
        recipe: of its optimizer.
        features: of the training rows.
        labels_M: int64, on the probe's device.
    """

    def __init__(self, probe: LinearProbe, recipe: ProbeRecipe, features: ProbeFeatures, labels_M: Tensor) -> None:
        self.module, self.optimizer = probe, probe_optimizer(probe, recipe)
        self.features, self.labels_M = features, labels_M

    def batches(self, schedule: FitSchedule, first: int) -> Generator[tuple[Tensor, Tensor]]:
        """Features (B, D) and labels (B,) of each step from ``first`` on."""
        for step in range(first, schedule.total_steps):
            rows = torch.from_numpy(schedule.rows(step))
            features_BD = self.features.of(rows, schedule.epoch(step)).clone()
            yield features_BD, self.labels_M[rows.to(self.labels_M.device)]

    def forward(self, step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, float, int]:
        """Cross entropy of a batch, how many of its rows are right, and how many there are."""
        features_BD, labels_B = batch
        scores_BC = self.module(features_BD)
        right = int((scores_BC.argmax(dim=1) == labels_B).sum())
        return functional.cross_entropy(scores_BC, labels_B), right, len(labels_B)

    def after_epoch(self, epoch: int) -> Mapping[str, float]:
        """Nothing more to report."""
        return {}
