"""The linear probe of MaskAlign's release (and of MAE): BatchNorm without affine, then one linear layer."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim.lars import Lars
from torch import Tensor, nn

from lookonce.train.evaluation.linear_probe.probe_config import ProbeRecipe

BATCH_NORM_EPSILON = 1e-6
WEIGHT_STD = 0.01
MOMENTUM = 0.9
TRUST_COEFFICIENT = 1e-3
"""LARS: norm of a step over the norm of the weights (arXiv 1708.03888, equation 6)."""


class LinearProbe(nn.Module):
    """Class scores of features.

    Args:
        channels: values of a feature, D.
        classes: number of classes, C.
        seed: seed of the initial weights (normal(0.01), truncated at 2); the global random state does not change.
    """

    norm: nn.BatchNorm1d
    linear: nn.Linear

    def __init__(self, channels: int, classes: int, *, seed: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=False, eps=BATCH_NORM_EPSILON)
        self.linear = nn.utils.skip_init(nn.Linear, channels, classes)  # type: ignore[no-untyped-call]
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            nn.init.trunc_normal_(self.linear.weight, std=WEIGHT_STD, generator=generator)
            nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Scores (B, C) of features (B, D); in training B is at least 2."""
        scores: Tensor = self.linear(self.norm(features))
        return scores

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """The trained probe as one linear layer on raw features: weight (C, D) and bias (C,), on the CPU."""
        statistics = dict(self.norm.named_buffers())
        weight_CD = self.linear.weight / (statistics["running_var"] + self.norm.eps).sqrt()
        bias_C = self.linear.bias - weight_CD @ statistics["running_mean"]
        return weight_CD.cpu().contiguous(), bias_C.cpu()


def probe_optimizer(probe: LinearProbe, recipe: ProbeRecipe) -> torch.optim.Optimizer:
    """The optimizer of the recipe; set its learning rate before every step. The bias never decays.

    LARS adapts the step of the weight, with or without decay; the bias is trained by plain SGD, as in the release.
    """
    weight = {"params": [probe.linear.weight], "weight_decay": recipe.weight_decay}
    bias = {"params": [probe.linear.bias], "weight_decay": 0.0}
    if recipe.optimizer == "lars":
        groups = [{**weight, "always_adapt": True}, bias]
        lars: Any = Lars  # timm annotates momentum as an int
        optimizer: torch.optim.Optimizer = lars(groups, lr=0.0, momentum=MOMENTUM, trust_coeff=TRUST_COEFFICIENT)
        return optimizer
    if recipe.optimizer == "sgd":
        return torch.optim.SGD([weight, bias], lr=0.0, momentum=MOMENTUM)
    return torch.optim.AdamW([weight, bias], lr=0.0)
