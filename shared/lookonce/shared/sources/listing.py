"""The images of a source: keys, labels and sizes, sorted by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.errors import SourceError, UsageError
from lookonce.shared.sources.entry_table import NO_LABEL, EntryTable, ListingEntry


@dataclass(frozen=True)
class Listing:
    """All images of a source in key order (code points, which is also the order of UTF-8 bytes)."""

    entries: Sequence[ListingEntry]
    """Sorted by key, without duplicates; always stored as an ``EntryTable``."""
    classes: tuple[str, ...]
    """Class names by label; empty if the source has no labels."""
    stored_at: float | None = field(default=None, compare=False)
    """Time of the listing in Unix seconds, if it is a stored one; None for a new listing."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Notes for the user, one sentence each: files that were left out, images without a class."""

    def __post_init__(self) -> None:
        if isinstance(self.entries, EntryTable):
            return
        for before, after in pairwise(self.entries):
            if before.key >= after.key:
                problem = "twice" if before.key == after.key else f"out of order, before {after.key!r}"
                raise SourceError(f"listing: expected keys sorted and unique, found {before.key!r} {problem}")
        object.__setattr__(self, "entries", EntryTable.of(self.entries))

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def digest(self) -> str:
        """``sha256:`` over the (key, byte count) pairs in key order, which identifies the data in any location."""
        return cast("EntryTable", self.entries).digest

    @property
    def labels(self) -> NDArray[np.int32]:
        """Label of each entry, int32 (entries,)."""
        return cast("EntryTable", self.entries).labels

    def positions(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Positions of some keys, int64 (keys,); -1 for a key that is not listed."""
        found = np.full(len(keys), -1, np.int64)
        entries = enumerate(self.entries)
        position, entry = next(entries, (-1, None))
        for row in sorted(range(len(keys)), key=keys.__getitem__):
            while entry is not None and entry.key < keys[row]:
                position, entry = next(entries, (-1, None))
            if entry is not None and entry.key == keys[row]:
                found[row] = position
        return found

    def head(self, limit: int) -> Listing:
        """The first ``limit`` entries (or all, if there are fewer), with the same classes.

        Raises:
            UsageError: ``limit`` is below 1.
        """
        if limit < 1:
            raise UsageError(f"limit: expected at least 1 image, found {limit}")
        return self if limit >= len(self) else replace(self, entries=self.entries[:limit])

    def spread(self, limit: int) -> Listing:
        """``limit`` entries, spread evenly over the labels (no label counts as one), the first of each label.

        If a label has fewer images than its share, the others get more. A remainder goes to the lower labels.

        Raises:
            UsageError: ``limit`` is below 1.
        """
        if limit < 1 or limit >= len(self):
            return self.head(limit)
        labels = self.labels
        _, group, counts = np.unique(labels, return_inverse=True, return_counts=True)
        rank = np.empty(len(labels), np.int64)  # position of an image among those of its label
        order = np.argsort(group, kind="stable")
        rank[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
        taken = np.lexsort((group, rank))[:limit]
        return replace(self, entries=cast("EntryTable", self.entries).at(np.sort(taken)))

    def without_labels(self) -> Listing:
        """The same images, without classes."""
        return replace(self, entries=tuple(replace(entry, label=NO_LABEL) for entry in self.entries), classes=())
