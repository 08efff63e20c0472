"""From block outputs to alignment targets, and from queries and keys to importance."""

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
    """How much a query attends to each patch, averaged over heads (MaskAlign, attentive masking: the class token's).

    Args:
        query: (B or 1, heads, 1, head_dim), the class token's or an attention pool's.
        keys: (B, heads, others + N, head_dim): class token and registers, if the query meets them, then the patches.
        scale: factor of the dot products.
        patches: N; the others take part in the softmax and are then dropped.

    Returns:
        (B, N) float32; a row sums to what the query does not spend on the others, at most 1.
    """
    scores = (query.float() * scale) @ keys.float().transpose(-2, -1)
    return scores.softmax(dim=-1)[:, :, 0, -patches:].mean(dim=1)
