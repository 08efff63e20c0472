"""Target norms other than the cached one, recovered from the cached features and their moments.

The cache stores each token's features LayerNormed over channels ("whitened", no affine), its mean, and
``std = sqrt(variance + 1e-5)`` with LayerNorm's biased variance, so that ``raw = whitened * std + mean`` exactly.

The released code's "bn" is ``(y - mean) / sqrt(variance + 1e-6)`` with one mean and one *unbiased* variance per
teacher level, over the batch, ALL tokens (CLS, visible and masked) and all channels; this reproduces the golden numbers
exactly. It is per level, not per channel, and not over the visible tokens alone. A trainer that reads features of
visible tokens only can compute it: mean and std of all tokens are small (8 bytes per token and level), and the moments
follow from them.
"""

# Shapes: B samples, n tokens read (CLS, then visible patches), N all tokens, L aligned levels, C channels.

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from lookonce.shared.errors import UsageError
from lookonce.train.names import TargetNorm, require_known

LAYER_NORM_EPS = 1e-5
"""Epsilon of the teacher's LayerNorm, contained in the cached std."""
BATCH_NORM_EPS = 1e-6
"""Epsilon that the released code's "bn" adds to the batch variance."""


@dataclass(frozen=True, kw_only=True)
class LevelStatistics:
    """Moments of the raw features of a batch over samples, all tokens and channels, for each level."""

    mean: Tensor
    """float32, shape (L,)."""
    variance: Tensor
    """float32, shape (L,); unbiased."""


def level_statistics(mean_BNL: Tensor, std_BNL: Tensor, channels: int) -> LevelStatistics:
    """Moments of raw features, from the cached mean and std of each token; reads no feature.

    Total variance is the variance within tokens plus that of the token means, which does not cancel in float32.

    Args:
        mean_BNL: per-token means of ALL tokens (CLS and every patch, masked ones too), float32 (B, N, L).
        std_BNL: per-token ``sqrt(variance + 1e-5)`` of the same tokens, float32 (B, N, L).
        channels: channels C of a token.

    Returns:
        Mean and unbiased variance of each level over B x N x C values. On several devices each has its own batch,
        as in the released code.
    """
    mean_L = mean_BNL.mean(dim=(0, 1))
    within_BNL = std_BNL.square() - LAYER_NORM_EPS
    between_BNL = (mean_BNL - mean_L).square()
    values = mean_BNL.shape[0] * mean_BNL.shape[1] * channels
    variance_L = (within_BNL + between_BNL).mean(dim=(0, 1)) * (values / (values - 1))
    return LevelStatistics(mean=mean_L, variance=variance_L)


def recover_targets(
    kind: str, whitened: Tensor, mean: Tensor, std: Tensor, statistics: LevelStatistics | None = None
) -> Tensor:
    """Targets of the wanted norm for the tokens that were read.

    Args:
        kind: "whiten" (as cached), "none" (raw), "l2" (raw, unit length over channels) or "bn" (module docstring).
        whitened: cached targets, float32 (B, n, L, C).
        mean: mean of these tokens before LayerNorm, float32 (B, n, L); unused for "whiten".
        std: std of these tokens before LayerNorm, float32 (B, n, L); unused for "whiten".
        statistics: :func:`level_statistics` over all tokens of the batch; needed for "bn", unused otherwise.

    Returns:
        float32, shape (B, n, L, C).

    Raises:
        UsageError: unknown kind, or "bn" without statistics.
    """
    require_known("target norm", kind, get_args(TargetNorm))
    if kind == "whiten":
        return whitened
    raw_BnLC = torch.addcmul(mean.unsqueeze(-1), whitened, std.unsqueeze(-1))
    if kind == "none":
        return raw_BnLC
    if kind == "l2":
        return functional.normalize(raw_BnLC, dim=-1)
    if statistics is None:
        raise UsageError(
            "target norm 'bn' needs the mean and std of all tokens of the batch, masked ones too: "
            "pass statistics=level_statistics(...)"
        )
    scale_L1 = (statistics.variance + BATCH_NORM_EPS).rsqrt().unsqueeze(-1)
    return (raw_BnLC - statistics.mean.unsqueeze(-1)) * scale_L1
