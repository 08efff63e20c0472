"""Which masks a run may draw, given what the cache stores, and the visible patches of a batch."""

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
    """What the cache's token subset means for this run, for the user; None when it stores every patch."""


@dataclass(frozen=True, kw_only=True)
class VisiblePatches:
    """The patches that the student sees of each view of a batch."""

    ids: NDArray[np.int64]
    """(B, k), ascending patch numbers in the view."""
    positions: NDArray[np.int64]
    """(B, k), where these patches lie among the stored ones; equal to ``ids`` when all are stored."""


def choose_masks(recipe: Recipe, kind: str | None, ratio: float | None, where: str) -> MaskChoice:
    """What was asked for, if the cache allows it; what was left open, as the cache or the released recipe has it.

    Args:
        recipe: the cache's.
        kind: wanted kind of mask; None for the default.
        ratio: wanted share of hidden patches; None for the default.
        where: the cache, for messages.

    Raises:
        CacheMismatchError: the cache does not hold the patches that such masks would show.
    """
    tokens, patches = recipe.tokens, recipe.patches
    if isinstance(tokens, VisibleTokens):
        wanted = (kind or tokens.mask, tokens.mask_ratio if ratio is None else ratio)
        if wanted != (tokens.mask, tokens.mask_ratio):
            raise CacheMismatchError(
                f"{where}: it holds only the visible patches of {tokens.mask} masks at ratio {tokens.mask_ratio}, "
                f"drawn when it was extracted; this run asks for {wanted[0]} masks at ratio {wanted[1]}. Leave out "
                "--mask and --mask-ratio, or extract with --tokens all"
            )
        note = (
            f"the cache holds {recipe.stored_patches} of {patches} patches a view, the visible ones of {tokens.mask} "
            f"masks at ratio {tokens.mask_ratio}: masks are fixed, one a view and seed, the same in every epoch"
        )
        return MaskChoice(kind=tokens.mask, ratio=tokens.mask_ratio, note=note)
    choice = MaskChoice(kind=kind or DEFAULT_MASK, ratio=DEFAULT_MASK_RATIO if ratio is None else ratio)
    if not isinstance(tokens, TopTokens):
        return choice
    shown, stored = visible_count(patches, choice.ratio), recipe.stored_patches
    if shown > stored:
        raise CacheMismatchError(
            f"{where}: it holds the most important {stored} of {patches} patches a view, mask ratio {choice.ratio} "
            f"shows {shown}; use --mask-ratio {round(1 - tokens.share, 6)} or more, or extract with --tokens all"
        )
    note = (
        f"the cache holds the most important {stored} of {patches} patches a view: {choice.kind} masks are drawn "
        f"inside them, {shown} patches visible"
    )
    return MaskChoice(kind=choice.kind, ratio=choice.ratio, note=note)
