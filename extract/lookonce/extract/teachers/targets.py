"""Alignment targets from block outputs, and importance from queries and keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-5


def normalise_targets(hidden: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm without affine over channels (eps 1e-5), float32, in the cache's token-major layout (MaskAlign).

    Args:
        hidden: L block outputs, each (B, tokens, C), any float dtype.

    Returns:
        targets (B, tokens, L, C), mean and std (B, tokens, L), all float32, with std = sqrt(biased variance + eps),
        so that ``hidden = targets * std + mean``.
    """
    stacked = torch.stack([output.float() for output in hidden], dim=2)
    targets, mean, inverse = torch.native_layer_norm(stacked, stacked.shape[-1:], None, None, EPSILON)
    return targets, mean.squeeze(-1), inverse.squeeze(-1).reciprocal()


def patch_attention(query: Tensor, keys: Tensor, scale: float, patches: int) -> Tensor:
    """Attention of a query to each patch, averaged over heads (MaskAlign, attentive masking: of the class token).

    Args:
        query: (B or 1, heads, 1, head_dim), of the class token or of an attention pool.
        keys: (B, heads, others + N, head_dim): class token and registers, if the query attends to them, then patches.
        scale: factor of the dot products.
        patches: N; the others take part in the softmax and are then dropped.

    Returns:
        (B, N) float32; each row sums to 1 minus the attention to the others.
    """
    scores = (query.float() * scale) @ keys.float().transpose(-2, -1)
    return scores.softmax(dim=-1)[:, :, 0, -patches:].mean(dim=1)
