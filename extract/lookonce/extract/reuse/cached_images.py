"""An earlier cache in place of the images it was made from: its keys and labels, and no image that could be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.shared.errors import UnreadableImageError
from lookonce.shared.sources import Listing, ListingEntry


def open_for_keys(root: Path, seeds: Sequence[int]) -> CacheReader:
    """A reader for those who want the keys of all samples.

    The digests of a zarr cache's keys cost nothing; a tar would be read from end to end for them, which is left to
    those who read its samples.
    """
    in_tars = CacheLayout(root).load_manifest().container == "webdataset"
    return CacheReader(root, seeds=seeds, check="never" if in_tars else "first-use")


def listed_samples(reader: CacheReader) -> Iterator[tuple[str, int]]:
    """Key and label of every sample of a cache, holes too, in key order.

    Raises:
        IntegrityError: an object with keys or labels is damaged.
    """
    manifest, seed = reader.manifest, reader.seeds[0]
    for shard in range(manifest.shard_count):
        rows = manifest.shard_rows(shard)
        keys, labels = reader.column("key", seed, rows), reader.column("label", seed, rows)
        yield from ((str(key), int(label)) for key, label in zip(keys, labels, strict=True))


@dataclass(frozen=True)
class CachedImages:
    """A source whose views lie in a cache; what is a hole there stays one."""

    root: Path
    seeds: tuple[int, ...]
    """Those whose views are wanted."""
    holes: Mapping[str, str]
    """Key to reason."""

    @classmethod
    def of(cls, reader: CacheReader) -> CachedImages:
        """The images of an open cache."""
        receipts = [receipt for seed in reader.seeds for receipt in reader.receipts(seed)]
        return cls(reader.root, reader.seeds, {hole.key: hole.reason for one in receipts for hole in one.holes})

    def listing(self, *, refresh: bool = False) -> Listing:
        """Keys and labels; the sizes are not known (0), so the listing's digest is not the data's.

        Args:
            refresh: changes nothing: every call looks at the cache.

        Raises:
            CacheError: the cache is gone, incomplete or damaged.
        """
        reader = open_for_keys(self.root, self.seeds)
        entries = tuple(ListingEntry(key, label, 0) for key, label in listed_samples(reader))
        return Listing(entries, reader.manifest.classes)

    def read(self, entry: ListingEntry) -> bytes:
        """There is nothing to read.

        Raises:
            UnreadableImageError: always, with the reason that the cache has for its hole.
        """
        raise UnreadableImageError(self.holes.get(entry.key, f"{entry.key}: not in {self.root}"))
