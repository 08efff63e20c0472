"""The forward pass of a step: decode, student, one alignment per teacher; ``--compile`` compiles this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lookonce.train.data.batch import Batch, StoredTargets
from lookonce.train.data.target_decoder import TargetDecoder, decode_targets
from lookonce.train.data.view_decoder import ViewDecoder
from lookonce.train.model.alignment import AlignmentOutput, DynamicAlignment
from lookonce.train.model.student import Student


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """Output of one forward pass."""

    loss: Tensor
    """Scalar: weighted sum of the teachers' losses."""
    level_losses: Tensor
    """Loss of each aligned level, teacher after teacher, neither weighted nor scaled, (levels of all teachers,)."""


class TeacherAlignment(nn.Module):
    """From a student's features and one cache's targets to a loss.

    Args:
        alignment: predicts teacher features from the student's.
        decoder: decodes the aligned levels of the cache's targets.
        layers: positions of the aligned levels on the cache's layer axis.
    """

    def __init__(
        self, alignment: DynamicAlignment, decoder: TargetDecoder | ViewDecoder, *, layers: Sequence[int]
    ) -> None:
        super().__init__()
        self.alignment, self.decoder = alignment, decoder
        self._layers = list(layers)

    def targets(self, stored: StoredTargets) -> Tensor:
        """Targets of the wanted norm, float32 (B, n, L, C)."""
        return decode_targets(self.decoder, self._layers, self.alignment.config.target_norm, stored)

    def forward(self, features: Sequence[Tensor], stored: StoredTargets) -> AlignmentOutput:
        """Loss of the student's blocks (S tensors (B, n, D)) against stored targets of the same tokens."""
        output: AlignmentOutput = self.alignment(features, self.targets(stored))
        return output


class AlignmentStep(nn.Module):
    """From a batch to the loss.

    Args:
        student: the student.
        teachers: one alignment per cache, in the order of a batch's targets.
        weights: each teacher's weight in the loss.
        autocast: dtype of the student's matrix products, or None for float32.
    """

    def __init__(
        self,
        student: Student,
        teachers: Sequence[TeacherAlignment],
        *,
        weights: Sequence[float] = (1.0,),
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.student, self.teachers = student, nn.ModuleList(teachers)
        self._weights, self._autocast = tuple(weights), autocast
        self._blocks = max(alignment.blocks_needed for alignment in self.alignments)

    @property
    def alignments(self) -> list[DynamicAlignment]:
        """The alignment of each teacher, whose parameters are trained."""
        return [teacher.alignment for teacher in self.teachers]  # type: ignore[misc]

    def forward(self, batch: Batch) -> StepOutput:
        """Loss of one batch on the module's device."""
        with torch.autocast(batch.visible_ids.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            features = self.student(batch.visible_pixels, batch.visible_ids, batch.branch_scales, self._blocks)
            outputs = [teacher(features, stored) for teacher, stored in zip(self.teachers, batch.targets, strict=True)]
        losses = [weight * output.loss for weight, output in zip(self._weights, outputs, strict=True)]
        return StepOutput(
            loss=torch.stack(losses).sum(), level_losses=torch.cat([output.level_losses for output in outputs])
        )
