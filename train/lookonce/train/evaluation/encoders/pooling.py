"""Pools a block of a vision transformer to one feature vector, or keeps its patches, for students and teachers alike.

Tokens first pass a LayerNorm without affine. The model's own final norm cannot be used: a student's is never trained
(alignment uses raw block outputs, MaskAlign, arXiv 2211.08887), and a teacher's belongs to its head. Without a norm, a
few channels of large scale, as CLIP has, would dominate every cosine.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from lookonce.shared.errors import UsageError

Pool = Literal["cls", "mean", "cls+mean", "patches"]
POOLS: tuple[Pool, ...] = get_args(Pool)
EPSILON = 1e-5

# Shapes: B images, N patches, D channels.


def pool_tokens(tokens_BnD: Tensor, pool: Pool) -> Tensor:
    """One feature vector per image, or one per patch.

    Args:
        tokens_BnD: raw output of a block, (B, 1 + N, D), class token first, any float dtype.
        pool: ``cls``: the class token; ``mean``: the mean of the patch tokens; ``cls+mean``: both, each scaled to
            length 1, concatenated; ``patches``: each patch token.

    Returns:
        float32 (B, D), or (B, 2 D) for ``cls+mean``, (B, N, D) for ``patches``; scaled to
        length 1 only in the parts of ``cls+mean``.

    Raises:
        UsageError: unknown pool.

    >>> pool_tokens(torch.randn(2, 5, 8), "cls+mean").shape
    torch.Size([2, 16])
    """
    if pool not in POOLS:
        raise UsageError(f"unknown pool {pool!r}; known: {', '.join(POOLS)}")
    normed_BnD = functional.layer_norm(tokens_BnD.float(), tokens_BnD.shape[-1:], eps=EPSILON)
    if pool == "patches":
        return normed_BnD[:, 1:]
    cls_BD, mean_BD = normed_BnD[:, 0], normed_BnD[:, 1:].mean(dim=1)
    if pool == "cls":
        return cls_BD
    if pool == "mean":
        return mean_BD
    return torch.cat([functional.normalize(cls_BD, dim=1), functional.normalize(mean_BD, dim=1)], dim=1)
