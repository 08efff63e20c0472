"""What a source holds: keys, labels and sizes, in an order that depends on nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from lookonce.shared.canonical import digest_document
from lookonce.shared.errors import SourceError, UsageError

NO_LABEL = -1
"""Label of an image that belongs to no class."""


@dataclass(frozen=True, slots=True)
class ListingEntry:
    """One image of a source."""

    key: str
    """The sample's name, unique in its source; views and masks are drawn from it."""
    label: int
    """Index into ``Listing.classes``, or -1 for none."""
    byte_count: int
    """Size of the encoded image, bytes."""


@dataclass(frozen=True)
class Listing:
    """All images of a source, in key order (code points, which is the order of the UTF-8 bytes)."""

    entries: tuple[ListingEntry, ...]
    """Sorted by key, no key twice."""
    classes: tuple[str, ...]
    """Class names by label; empty where the source has no labels."""

    def __post_init__(self) -> None:
        for before, after in zip(self.entries, self.entries[1:], strict=False):
            if before.key >= after.key:
                problem = "twice" if before.key == after.key else f"out of order, before {after.key!r}"
                raise SourceError(f"listing: expected keys sorted and unique, found {before.key!r} {problem}")

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def digest(self) -> str:
        """``sha256:`` over the (key, byte count) pairs in key order: the data's identity, wherever it lies."""
        return digest_document([[entry.key, entry.byte_count] for entry in self.entries])

    def head(self, limit: int) -> Listing:
        """The first ``limit`` entries (all, if there are fewer), with the same classes.

        Raises:
            UsageError: ``limit`` is below 1.
        """
        if limit < 1:
            raise UsageError(f"limit: expected at least 1 image, found {limit}")
        return Listing(self.entries[:limit], self.classes)
