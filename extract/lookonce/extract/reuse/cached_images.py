"""An earlier cache as an image source: it lists keys and labels, and contains no image to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.shared.errors import UnreadableImageError
from lookonce.shared.sources import Listing, ListingEntry


def open_key_reader(root: Path, seeds: Sequence[int]) -> CacheReader:
    """A reader for the keys of all samples.

    It checks the digests of a zarr cache, because those of its keys are cheap. In a webdataset cache the digest of a
    whole tar would be computed for its keys, so it is checked only when samples are read.
    """
    in_tars = CacheLayout(root).load_manifest().container == "webdataset"
    return CacheReader(root, seeds=seeds, check="never" if in_tars else "first-use")


def iterate_samples(reader: CacheReader) -> Iterator[tuple[str, int]]:
    """Key and label of every sample of a cache, including holes, in key order.

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
    """An image source whose views are stored in a cache; its holes stay holes."""

    root: Path
    seeds: tuple[int, ...]
    """Seeds of the views."""
    holes: Mapping[str, str]
    """Key -> reason."""

    @classmethod
    def from_reader(cls, reader: CacheReader) -> CachedImages:
        """The images of an open cache."""
        receipts = [receipt for seed in reader.seeds for receipt in reader.receipts(seed)]
        return cls(reader.root, reader.seeds, {hole.key: hole.reason for one in receipts for hole in one.holes})

    def listing(self, *, refresh: bool = False) -> Listing:
        """Keys and labels. Sizes are unknown (0), so the digest of the listing is not the digest of the dataset.

        Args:
            refresh: has no effect; every call reads the cache.

        Raises:
            CacheError: the cache is gone, incomplete or damaged.
        """
        reader = open_key_reader(self.root, self.seeds)
        entries = tuple(ListingEntry(key, label, 0) for key, label in iterate_samples(reader))
        return Listing(entries, reader.manifest.classes)

    def read(self, entry: ListingEntry) -> bytes:
        """Always fails, because the cache contains no images.

        Raises:
            UnreadableImageError: always, with the reason of the hole.
        """
        raise UnreadableImageError(self.holes.get(entry.key, f"{entry.key}: not in {self.root}"))
