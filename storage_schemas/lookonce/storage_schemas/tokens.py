"""Token subsets: the patches of a view that a cache stores, chosen at extraction. They are part of the recipe.

A subset saves bytes and restricts masks. ``visible`` stores 58 of 196 patches at mask ratio 0.7 and fixes the masks.
``top`` allows only masks whose visible patches are stored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal, NotRequired, TypedDict

from lookonce.shared.errors import UsageError
from lookonce.shared.masking import MASK_KINDS, MASK_VERSION, visible_count


class TokenSubsetDocument(TypedDict):
    """A token subset as JSON; ``kind`` decides which of the other fields it has."""

    kind: str
    masks: NotRequired[Literal["fixed-per-seed", "drawn-inside"]]
    mask: NotRequired[str]
    mask_ratio: NotRequired[float]
    mask_version: NotRequired[int]
    share: NotRequired[float]


class TokenSubset(ABC):
    """Token 0 and some patches of every view."""

    kind: ClassVar[str]

    @abstractmethod
    def stored_patches(self, patches: int) -> int:
        """How many of a view's ``patches`` are stored, at least 1."""

    @abstractmethod
    def document(self) -> TokenSubsetDocument:
        """The subset as a JSON-compatible document."""

    @property
    def keeps_all(self) -> bool:
        """Whether every patch is stored."""
        return False


@dataclass(frozen=True)
class AllTokens(TokenSubset):
    """Every patch. Training draws any mask, a new one each epoch."""

    kind: ClassVar[str] = "all"

    def stored_patches(self, patches: int) -> int:
        """All ``patches``."""
        return patches

    def document(self) -> TokenSubsetDocument:
        """The subset as a JSON-compatible document."""
        return {"kind": self.kind}

    @property
    def keeps_all(self) -> bool:
        """True."""
        return True


@dataclass(frozen=True, kw_only=True)
class VisibleTokens(TokenSubset):
    """The visible patches of one mask per view. Extraction draws the mask, and every epoch uses it again."""

    mask: str
    """Kind of mask; see ``shared.masking``."""
    mask_ratio: float
    """Share of hidden patches, 0 <= ratio < 1."""
    mask_version: int = MASK_VERSION
    """Version of the draw; see ``shared.masking``."""
    kind: ClassVar[str] = "visible"

    def stored_patches(self, patches: int) -> int:
        """``visible_count``: 58 of 196 at ratio 0.7."""
        return visible_count(patches, self.mask_ratio)

    def document(self) -> TokenSubsetDocument:
        """The subset as a JSON-compatible document."""
        return {
            "kind": self.kind,
            "masks": "fixed-per-seed",
            "mask": self.mask,
            "mask_ratio": self.mask_ratio,
            "mask_version": self.mask_version,
        }


@dataclass(frozen=True, kw_only=True)
class TopTokens(TokenSubset):
    """The most important patches of every view. Training draws a new mask among them each epoch."""

    share: float
    """Share of the patches that are stored, 0 < share < 1."""
    kind: ClassVar[str] = "top"

    def stored_patches(self, patches: int) -> int:
        """``patches * share`` rounded down, at least 1; exact for the decimal number that ``share`` prints as."""
        return max(1, int(patches * Fraction(repr(float(self.share)))))

    def document(self) -> TokenSubsetDocument:
        """The subset as a JSON-compatible document."""
        return {"kind": self.kind, "masks": "drawn-inside", "share": self.share}


def parse_token_subset(text: str, *, mask: str, mask_ratio: float) -> TokenSubset:
    """Read ``all``, ``visible`` or ``top:SHARE``.

    Args:
        text: value of ``--tokens``.
        mask: kind of mask for ``visible``.
        mask_ratio: its share of hidden patches.

    Raises:
        UsageError: it is something else, or a value is out of range.

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
            raise UsageError(f"--tokens {text}: {share!r} is not a number; write for example top:0.5") from None
        found = token_subset_problem(subset.document())
        if found is None:
            return subset
        raise UsageError(f"--tokens {text}: {found}")
    raise UsageError(f"--tokens {text}: must be all, visible, or top:SHARE such as top:0.5")


def token_subset_problem(document: Mapping[str, Any]) -> str | None:
    """The problem of a document, or None."""
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
        ValueError: the document is not valid; see ``token_subset_problem``.
    """
    if (problem := token_subset_problem(document)) is not None:
        raise ValueError(problem)
    if document["kind"] == VisibleTokens.kind:
        return VisibleTokens(
            mask=document["mask"], mask_ratio=document["mask_ratio"], mask_version=document["mask_version"]
        )
    return TopTokens(share=document["share"]) if document["kind"] == TopTokens.kind else AllTokens()
