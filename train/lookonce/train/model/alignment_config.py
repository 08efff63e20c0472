"""Configuration of the alignment; imports no torch, so that ``train-student --help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass

from lookonce.shared.config_values import Positive, validate
from lookonce.train.model.layer_weights import validate_layer_weights_name
from lookonce.train.names import AdapterName, AlignmentName, LossName, MixOrder, TargetNorm


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """How student features are compared with the teacher's."""

    alignment: AlignmentName = "dynamic"
    """dynamic: learned mixture of student blocks; layerwise: teacher block j from student block j alone."""
    mix_order: MixOrder = "adapt-then-mix"
    """adapt-then-mix: the paper's; mix-then-adapt: the released code's; only for dynamic."""
    adapter: AdapterName = "linear"
    """Map from the student's width to the teacher's: linear, norm-linear, mlp or mlp2."""
    layer_weights: str = "top5"
    """Aligned teacher blocks and their weights: topK, midK, mean, out or linear-decay."""
    loss: LossName = "smooth-l1"
    """smooth-l1 (beta 1), l2 or l1, mean over samples, tokens and channels."""
    loss_scale: Positive = 1.0
    """Factor on the loss, positive; the released code has 2 for smooth-l1 (and 1 for l2 and l1)."""
    target_norm: TargetNorm = "whiten"
    """Norm of the targets: whiten (LayerNorm without affine), none, l2 or bn."""

    def __post_init__(self) -> None:
        """Refuse unknown names and numbers out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        validate(self)
        validate_layer_weights_name(self.layer_weights)
