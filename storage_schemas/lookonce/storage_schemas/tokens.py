"""Token subsets: which patches of a view a cache keeps, decided when the teacher looks; part of the recipe.

A subset costs freedom: masks are fixed (``visible``), or can only be drawn inside what is kept (``top``). What it saves
is bytes: of 196 patches at mask ratio 0.7, ``visible`` keeps 58.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from lookonce.shared.errors import UsageError
from lookonce.shared.masking import MASK_KINDS, MASK_VERSION, visible_count


class TokenSubset(ABC):
    """The class token and some patches of every view."""

    kind: ClassVar[str]

    @abstractmethod
    def stored_patches(self, patches: int) -> int:
        """How many of a view's ``patches`` are kept, at least 1."""

    @abstractmethod
    def document(self) -> dict[str, Any]:
        """As it stands in the recipe."""

    @property
    def whole(self) -> bool:
        """Whether every patch is kept."""
        return False


@dataclass(frozen=True)
class AllTokens(TokenSubset):
    """Every patch; training draws any mask, anew each epoch."""

    kind: ClassVar[str] = "all"

    def stored_patches(self, patches: int) -> int:
        """All."""
        return patches

    def document(self) -> dict[str, Any]:
        """As it stands in the recipe."""
        return {"kind": self.kind}

    @property
    def whole(self) -> bool:
        """True."""
        return True


@dataclass(frozen=True, kw_only=True)
class VisibleTokens(TokenSubset):
    """The visible patches of one mask a view, drawn at extraction: every epoch that sees the view sees that mask."""

    mask: str
    """Kind of mask, see ``shared.masking``."""
    mask_ratio: float
    """Share of hidden patches, 0 <= r < 1."""
    mask_version: int = MASK_VERSION
    """Version of the draw, see ``shared.masking``."""
    kind: ClassVar[str] = "visible"

    def stored_patches(self, patches: int) -> int:
        """``visible_count``: 58 of 196 at ratio 0.7."""
        return visible_count(patches, self.mask_ratio)

    def document(self) -> dict[str, Any]:
        """As it stands in the recipe."""
        drawn = {"mask": self.mask, "mask_ratio": self.mask_ratio, "mask_version": self.mask_version}
        return {"kind": self.kind, "masks": "fixed-per-seed", **drawn}


@dataclass(frozen=True, kw_only=True)
class TopTokens(TokenSubset):
    """The most important patches of every view; training draws masks inside them, anew each epoch."""

    share: float
    """Share of the patches that are kept, 0 < share < 1."""
    kind: ClassVar[str] = "top"

    def stored_patches(self, patches: int) -> int:
        """The whole part of ``patches * share`` (exact, as the decimal number that the share prints as), at least 1."""
        return max(1, int(patches * Fraction(repr(float(self.share)))))

    def document(self) -> dict[str, Any]:
        """As it stands in the recipe."""
        return {"kind": self.kind, "masks": "drawn-inside", "share": self.share}


def parse_token_subset(text: str, *, mask: str, mask_ratio: float) -> TokenSubset:
    """Read ``all``, ``visible`` or ``top:SHARE``.

    Args:
        text: what a user typed.
        mask: kind of mask of ``visible``.
        mask_ratio: its share of hidden patches.

    Raises:
        UsageError: it is something else, or a value is out of its range.

    >>> parse_token_subset("top:0.5", mask="attentive", mask_ratio=0.7).document()
    {'kind': 'top', 'masks': 'drawn-inside', 'share': 0.5}
    """
    kind, _, share = text.partition(":")
    if text == AllTokens.kind:
        return AllTokens()
    if text == VisibleTokens.kind:
        found = token_subset_problem(VisibleTokens(mask=mask, mask_ratio=mask_ratio).document())
        if found is None:
            return VisibleTokens(mask=mask, mask_ratio=mask_ratio)
        raise UsageError(f"--tokens visible: {found}")
    if kind == TopTokens.kind:
        try:
            subset = TopTokens(share=float(share))
        except ValueError:
            raise UsageError(f"--tokens {text}: {share!r} is no number; write for example top:0.5") from None
        found = token_subset_problem(subset.document())
        if found is None:
            return subset
        raise UsageError(f"--tokens {text}: {found}")
    raise UsageError(f"--tokens {text}: must be all, visible, or top:SHARE such as top:0.5")


def token_subset_problem(document: Mapping[str, Any]) -> str | None:
    """What is wrong with a document, or None."""
    kind = document.get("kind")
    fields = {
        AllTokens.kind: {"kind"},
        VisibleTokens.kind: {"kind", "masks", "mask", "mask_ratio", "mask_version"},
        TopTokens.kind: {"kind", "masks", "share"},
    }
    if kind not in fields:
        return f"token subset {kind!r} is not known to this lookonce ({', '.join(fields)}); install a newer one"
    if set(document) != fields[kind]:
        return f"token subset {kind!r} needs the fields {sorted(fields[kind])}, found {sorted(document)}"
    if kind == VisibleTokens.kind:
        if document["mask"] not in MASK_KINDS:
            return f"unknown mask {document['mask']!r}: expected one of {', '.join(MASK_KINDS)}"
        if not _number(document["mask_ratio"]) or not 0 <= document["mask_ratio"] < 1:
            return f"mask ratio {document['mask_ratio']!r}: must be at least 0 and below 1"
    if kind == TopTokens.kind and not (_number(document["share"]) and 0 < document["share"] < 1):
        return f"share {document['share']!r}: must be above 0 and below 1"
    return None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def token_subset(document: Mapping[str, Any]) -> TokenSubset:
    """Read a document.

    Raises:
        ValueError: see ``token_subset_problem``.
    """
    if (problem := token_subset_problem(document)) is not None:
        raise ValueError(problem)
    if document["kind"] == VisibleTokens.kind:
        drawn = {name: document[name] for name in ("mask", "mask_ratio", "mask_version")}
        return VisibleTokens(**drawn)
    return TopTokens(share=document["share"]) if document["kind"] == TopTokens.kind else AllTokens()
