"""Views out of an earlier cache: the pixels that another teacher has seen, without decoding or cropping an image."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from lookonce.cache.advice import REPAIR
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.samples_by_key import SamplesByKey
from lookonce.extract.views.image_views import ImageViews, ViewProducer
from lookonce.shared.errors import IntegrityError
from lookonce.shared.patches import unpatchify
from lookonce.shared.sources import ListingEntry
from lookonce.shared.views import pixel_digest


class StoredViews:
    """Produces what a cache with whole pixels holds, and leaves the rest to another producer; thread-safe.

    Args:
        reader: the cache, of images that are known to be the same: nothing here looks at them.
        fresh: makes the views of the (key, seed) pairs that the cache does not hold, or holds as holes.
    """

    def __init__(self, reader: CacheReader, fresh: ViewProducer) -> None:
        self._reader, self._fresh = reader, fresh
        self._samples = SamplesByKey(reader)
        self._first_use = threading.Lock()  # an object is digested by one thread, not by all that come upon it

    def views(self, row: int, entry: ListingEntry, seeds: Sequence[int]) -> ImageViews:
        """The views of one image, one a seed.

        Raises:
            IntegrityError: an object of the cache is damaged, or its pixels are not those of its pixel digest.
            SourceError: see the other producer.
        """
        held = self._samples.present(entry.key, seeds) if set(seeds) <= set(self._reader.seeds) else None
        if held is None:
            return self._fresh.views(row, entry, seeds)
        rows = [held] * len(seeds)
        with self._first_use:
            patches = self._reader.read("pixels", seeds, rows)
            digests = self._reader.read("pixel_digest", seeds, rows)
            parameters = np.concatenate([self._samples.views(seed, [held]) for seed in seeds])
        for seed, view, digest in zip(seeds, patches, digests, strict=True):
            if not np.array_equal(pixel_digest(view), digest):
                raise IntegrityError(
                    f"{self._reader.root}: the stored pixels of {entry.key!r}, seed {seed}, have another digest than "
                    f"the one beside them; {REPAIR}"
                )
        return ImageViews(row, unpatchify(patches, self._reader.manifest.recipe.patch_size), parameters)
