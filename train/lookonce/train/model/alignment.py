"""Dynamic alignment of student blocks with teacher levels (MaskAlign, arXiv 2211.08887, section 3.3).

Paper (``adapt-then-mix``):          y_hat_j = sum_i W_ji A_i(x_i), one adapter per student block.
Released code (``mix-then-adapt``):  y_hat_j = A_j(sum_i W_ji x_i), one adapter per aligned teacher level.

Only levels with non-zero weight are computed, because the others get no gradient. The alignment is dropped after
pre-training.
"""

# Shapes: S student blocks, B samples, n tokens (CLS, then visible patches), D student channels,
#         L aligned teacher levels, C teacher channels.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lookonce.shared.errors import UsageError
from lookonce.train.model.adapters import build_adapters
from lookonce.train.model.alignment_config import AlignmentConfig
from lookonce.train.model.layer_weights import aligned_blocks, layer_weights
from lookonce.train.model.losses import level_losses

__all__ = ["AlignmentConfig", "AlignmentOutput", "DynamicAlignment"]


@dataclass(frozen=True, kw_only=True)
class AlignmentOutput:
    """Output of one alignment step."""

    loss: Tensor
    """Scalar: ``loss_scale`` times the weighted sum of ``level_losses``."""
    level_losses: Tensor
    """Loss of each aligned level, neither weighted nor scaled, shape (L,)."""
    predictions: Tensor
    """Predicted targets, shape (L, B, n, C)."""


class DynamicAlignment(nn.Module):
    """Predicts teacher features from student blocks and measures the distance; W and the adapters are its parameters.

    Args:
        config: kind of alignment, loss and adapters.
        student_blocks: number S of blocks of the student.
        student_dim: width of the student.
        teacher_levels: number of all blocks of the teacher, not of the aligned ones alone.
        teacher_dim: width of the teacher.
        seed: seed of the adapters' weights; the global random state is not used.

    Raises:
        UsageError: layer weights do not fit the teacher; "layerwise" with differing numbers of blocks.
    """

    level_weights: Tensor
    weight: nn.Parameter | None
    initial_weight: Tensor | None

    def __init__(
        self,
        config: AlignmentConfig,
        *,
        student_blocks: int,
        student_dim: int,
        teacher_levels: int,
        teacher_dim: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.student_blocks = student_blocks
        self.teacher_blocks = aligned_blocks(config.layer_weights, teacher_levels)
        """1-based numbers of the aligned teacher blocks, in the order of targets, predictions and W's rows."""
        self.blocks_needed = max(self.teacher_blocks) if config.alignment == "layerwise" else student_blocks
        """Number of the student's blocks, from the first, that the loss depends on."""
        weights = layer_weights(config.layer_weights, teacher_levels)
        rows = [block - 1 for block in self.teacher_blocks]
        self.register_buffer("level_weights", torch.tensor([weights[r] for r in rows]), persistent=False)
        if config.alignment == "layerwise" and student_blocks != teacher_levels:
            raise UsageError(
                f"layerwise alignment pairs block j of the student with block j of the teacher, but the student has "
                f"{student_blocks} blocks and the teacher {teacher_levels}: use dynamic alignment or another student"
            )
        mixture = _initial_mixture(teacher_levels, student_blocks)[rows] if config.alignment == "dynamic" else None
        self.weight = None if mixture is None else nn.Parameter(mixture)
        """The mixing matrix W, shape (L, S), row by aligned level; None for "layerwise"."""
        self.register_buffer("initial_weight", None if mixture is None else mixture.clone(), persistent=False)
        adapt_first = config.alignment == "dynamic" and config.mix_order == "adapt-then-mix"
        self.adapters = build_adapters(
            config.adapter,
            count=student_blocks if adapt_first else len(rows),
            in_dim=student_dim,
            out_dim=teacher_dim,
            generator=torch.Generator().manual_seed(seed),
        )

    def predict(self, student_blocks: Sequence[Tensor] | Tensor) -> Tensor:
        """Predicted targets of the aligned levels, shape (L, B, n, C).

        Args:
            student_blocks: outputs of the student's blocks, S tensors (B, n, D) or one (S, B, n, D); the first
                ``blocks_needed`` of them are enough.

        Raises:
            UsageError: too few or too many blocks.
        """
        if not self.blocks_needed <= len(student_blocks) <= self.student_blocks:
            raise UsageError(
                f"alignment: needs the outputs of the first {self.blocks_needed} of {self.student_blocks} student "
                f"blocks, found {len(student_blocks)}; give those of the student that the alignment was built for"
            )
        if self.weight is None:
            paired_LBnD = torch.stack([student_blocks[block - 1] for block in self.teacher_blocks])
            return self._adapt(paired_LBnD)
        student_SBnD = student_blocks if isinstance(student_blocks, Tensor) else torch.stack(tuple(student_blocks))
        if self.config.mix_order == "adapt-then-mix":
            return _mix(self.weight, self._adapt(student_SBnD))
        return self._adapt(_mix(self.weight, student_SBnD))

    def forward(self, student_blocks: Sequence[Tensor] | Tensor, targets: Tensor) -> AlignmentOutput:
        """Loss of the student's features against the teacher's, on the tokens that the student sees.

        Args:
            student_blocks: as for :meth:`predict`.
            targets: teacher features of the same tokens at ``teacher_blocks``, float32 (B, n, L, C).

        Raises:
            UsageError: the targets have another shape than the predictions.
        """
        predictions_LBnC = self.predict(student_blocks)
        expected = tuple(predictions_LBnC.movedim(0, 2).shape)
        if tuple(targets.shape) != expected:
            raise UsageError(
                f"targets: expected shape {expected} (sample, token, level, channel), found {tuple(targets.shape)}"
            )
        losses_L = level_losses(self.config.loss, predictions_LBnC, targets.movedim(2, 0))
        loss = self.config.loss_scale * (self.level_weights * losses_L).sum()
        return AlignmentOutput(loss=loss, level_losses=losses_L, predictions=predictions_LBnC)

    def _adapt(self, features: Tensor) -> Tensor:
        adapted: Tensor = self.adapters(features)
        return adapted


def _mix(weight_LS: Tensor, features_SBnX: Tensor) -> Tensor:
    """W times features along the block axis, as one matrix product: (S, B, n, X) to (L, B, n, X)."""
    return (weight_LS @ features_SBnX.flatten(1)).reshape(-1, *features_SBnX.shape[1:])


def _initial_mixture(teacher_levels: int, student_blocks: int) -> Tensor:
    """W before training, (teacher levels, student blocks): identity + 0.01 when square, else uniform 1 / S."""
    if student_blocks == teacher_levels:
        return torch.eye(student_blocks) + 0.01
    return torch.full((teacher_levels, student_blocks), 1.0 / student_blocks)
