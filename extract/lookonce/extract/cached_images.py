"""An earlier cache in place of the images it was made from: its keys and labels, and no image that could be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lookonce.cache.reader import CacheReader
from lookonce.shared.errors import UnreadableImageError
from lookonce.shared.sources import Listing, ListingEntry


@dataclass(frozen=True)
class CachedImages:
    """A source whose views lie in a cache; what is a hole there stays one."""

    root: Path
    keys: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    holes: Mapping[str, str]
    """Key to reason."""

    @classmethod
    def of(cls, reader: CacheReader) -> CachedImages:
        """The images of an open cache.

        Raises:
            IntegrityError: an object with keys or labels is damaged.
        """
        seed = reader.seeds[0]
        holes = {hole.key: hole.reason for seed in reader.seeds for one in reader.receipts(seed) for hole in one.holes}
        keys = tuple(str(key) for key in reader.column("key", seed))
        labels = tuple(int(label) for label in reader.column("label", seed))
        return cls(reader.root, keys, labels, reader.manifest.classes, holes)

    def listing(self, *, anew: bool = False) -> Listing:
        """Keys and labels; the sizes are not known (0), so the listing's digest is not the data's."""
        pairs = zip(self.keys, self.labels, strict=True)
        return Listing(tuple(ListingEntry(key, label, 0) for key, label in pairs), self.classes)

    def read(self, entry: ListingEntry) -> bytes:
        """There is nothing to read.

        Raises:
            UnreadableImageError: always, with the reason that the cache has for its hole.
        """
        raise UnreadableImageError(self.holes.get(entry.key, f"{entry.key}: not in {self.root}"))
