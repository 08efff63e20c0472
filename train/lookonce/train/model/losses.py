"""Distances between predicted and cached targets (MaskAlign, section 3.3: smooth L1), averaged level by level."""

# Shapes: L aligned levels, B samples, n tokens (CLS, then visible patches), C channels of the teacher.

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lookonce.train.names import require_known


def _smooth_l1(prediction: Tensor, target: Tensor) -> Tensor:
    return functional.smooth_l1_loss(prediction, target, reduction="none", beta=1.0)


def _l2(prediction: Tensor, target: Tensor) -> Tensor:
    return functional.mse_loss(prediction, target, reduction="none")


def _l1(prediction: Tensor, target: Tensor) -> Tensor:
    return functional.l1_loss(prediction, target, reduction="none")


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"smooth-l1": _smooth_l1, "l2": _l2, "l1": _l1}
"""Element-wise losses by name: smooth L1 with beta 1, squared and absolute difference."""


def level_losses(name: str, predictions_LBnC: Tensor, targets_LBnC: Tensor) -> Tensor:
    """Mean loss of each level over samples, tokens and channels, in float32 at least.

    Args:
        name: "smooth-l1", "l2" or "l1".
        predictions_LBnC: any float type (bfloat16 under autocast), shape (L, B, n, C).
        targets_LBnC: same shape.

    Returns:
        shape (L,), neither weighted nor scaled; float32, or float64 if the arguments are.

    Raises:
        UsageError: unknown name.
    """
    require_known("loss", name, LOSSES)
    dtype = torch.promote_types(torch.promote_types(predictions_LBnC.dtype, targets_LBnC.dtype), torch.float32)
    return LOSSES[name](predictions_LBnC.to(dtype), targets_LBnC.to(dtype)).mean(dim=(1, 2, 3))
