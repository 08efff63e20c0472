"""How the student's features are compared with the teacher's: one frozen configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from lookonce.shared.errors import UsageError
from lookonce.train.model.layer_weights import validate_layer_weights_name
from lookonce.train.names import AdapterName, AlignmentName, LossName, MixOrder, TargetNorm, require_known

_CHOICES = {
    "alignment": AlignmentName,
    "mix_order": MixOrder,
    "adapter": AdapterName,
    "loss": LossName,
    "target_norm": TargetNorm,
}


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
    loss_scale: float = 1.0
    """Factor on the loss, positive; the released code has 2 for smooth-l1 (and 1 for l2 and l1)."""
    target_norm: TargetNorm = "whiten"
    """Norm of the targets: whiten (LayerNorm without affine), none, l2 or bn."""

    def __post_init__(self) -> None:
        for field, names in _CHOICES.items():
            require_known(field.replace("_", " "), getattr(self, field), get_args(names))
        validate_layer_weights_name(self.layer_weights)
        if not 0 < self.loss_scale < float("inf"):
            raise UsageError(f"loss_scale must be positive and finite, found {self.loss_scale}")
