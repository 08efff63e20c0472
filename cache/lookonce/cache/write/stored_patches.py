"""Chooses the patches of a view that a token subset stores, by subset, importance, key and seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.masking import mask_noise, visible_patches
from lookonce.storage_schemas.tokens import TokenSubset, TopTokens, VisibleTokens


def stored_patch_ids(
    tokens: TokenSubset, importance: NDArray[np.float32], keys: Sequence[str], seed: int
) -> NDArray[np.int64]:
    """Choose the patches to store.

    ``visible`` draws the mask that a training run with seed 0, on a cache of all tokens, draws in epoch 0.

    Args:
        tokens: the subset.
        importance: float32 (B, N).
        keys: sample keys, length B.
        seed: augmentation seed of the views.

    Returns:
        int64 (B, k), ascending patch numbers, k = ``tokens.stored_patches(N)``.

    Raises:
        NumericalError: importance is negative, NaN or infinite.
    """
    patches = importance.shape[1]
    if isinstance(tokens, VisibleTokens):
        noise = mask_noise(0, 0, keys, [seed] * len(keys), patches)
        return visible_patches(tokens.mask, importance, noise, tokens.mask_ratio)
    if isinstance(tokens, TopTokens):
        # stable: of equally important patches, the first are stored
        order = np.argsort(-importance, axis=1, kind="stable")[:, : tokens.stored_patches(patches)]
        return np.sort(order, axis=1)
    return np.broadcast_to(np.arange(patches), importance.shape)
