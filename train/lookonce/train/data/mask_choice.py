"""The masks of a run, as far as the cache's stored patches allow them, and the visible patches of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.errors import CacheMismatchError
from lookonce.shared.masking import visible_count
from lookonce.storage_schemas.recipe import Recipe
from lookonce.storage_schemas.tokens import TopTokens, VisibleTokens

DEFAULT_MASK, DEFAULT_MASK_RATIO = "attentive", 0.7
"""The released recipe's (MaskAlign, arXiv 2211.08887)."""


@dataclass(frozen=True, kw_only=True)
class MaskChoice:
    """The masks of a run."""

    kind: str
    """``attentive``, ``random`` or ``hide-attentive``."""
    ratio: float
    """Share of a view's patches that the student does not see, 0 <= r < 1."""
    note: str | None = None
    """Note for the user about the cache's token subset; None if the cache stores every patch."""


@dataclass(frozen=True, kw_only=True)
class VisiblePatches:
    """The patches of each view that the student sees."""

    ids: NDArray[np.int64]
    """(B, k), ascending patch numbers in the view."""
    positions: NDArray[np.int64]
    """(B, k), positions of these patches among the stored ones; equal to ``ids`` if all patches are stored."""


def choose_masks(recipe: Recipe, kind: str | None, ratio: float | None, where: str) -> MaskChoice:
    """The wanted masks, if the cache allows them; defaults are those of the cache, or of the released recipe.

    Args:
        recipe: the cache's.
        kind: wanted kind of mask; None for the default.
        ratio: wanted share of hidden patches; None for the default.
        where: the cache, for messages.

    Raises:
        CacheMismatchError: the cache does not store the patches that such masks show.
    """
    tokens, patches = recipe.tokens, recipe.patches
    if isinstance(tokens, VisibleTokens):
        wanted = (kind or tokens.mask, tokens.mask_ratio if ratio is None else ratio)
        if wanted != (tokens.mask, tokens.mask_ratio):
            raise CacheMismatchError(
                f"{where}: it stores only the visible patches of {tokens.mask} masks at ratio {tokens.mask_ratio}, "
                f"drawn when it was extracted; this run asks for {wanted[0]} masks at ratio {wanted[1]}. Leave out "
                "--mask and --mask-ratio, or extract with --tokens all"
            )
        note = (
            f"the cache stores {recipe.stored_patches} of {patches} patches per view, the visible ones of "
            f"{tokens.mask} masks at ratio {tokens.mask_ratio}: masks are fixed, one per view, the same in every epoch"
        )
        return MaskChoice(kind=tokens.mask, ratio=tokens.mask_ratio, note=note)
    choice = MaskChoice(kind=kind or DEFAULT_MASK, ratio=DEFAULT_MASK_RATIO if ratio is None else ratio)
    if not isinstance(tokens, TopTokens):
        return choice
    shown, stored = visible_count(patches, choice.ratio), recipe.stored_patches
    if shown > stored:
        raise CacheMismatchError(
            f"{where}: it stores the most important {stored} of {patches} patches per view, mask ratio {choice.ratio} "
            f"shows {shown}; use --mask-ratio {round(1 - tokens.share, 6)} or more, or extract with --tokens all"
        )
    note = (
        f"the cache stores the most important {stored} of {patches} patches per view: {choice.kind} masks are drawn "
        f"inside them, {shown} patches visible"
    )
    return MaskChoice(kind=choice.kind, ratio=choice.ratio, note=note)
