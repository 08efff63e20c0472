"""Views from the stored pixels of an earlier cache, without decoding or cropping an image."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from lookonce.cache.advice import REPAIR
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.samples_by_key import SamplesByKey
from lookonce.cache.read.whole_views import JpegViews
from lookonce.extract.views.image_views import ImageViews, ViewProducer
from lookonce.shared.errors import IntegrityError
from lookonce.shared.patches import unpatchify
from lookonce.shared.sources import ListingEntry
from lookonce.shared.views import pixel_digest
from lookonce.storage_schemas.arrays import JPEG


class StoredViews:
    """Reads views from a cache with complete pixels; other views come from a second producer. Thread-safe.

    Args:
        reader: the cache, which stores whole views. Its images must be known to be unchanged; they are not checked.
        fallback: makes the views of (key, seed) pairs that the cache does not contain or has as holes.
    """

    def __init__(self, reader: CacheReader, fallback: ViewProducer) -> None:
        self._reader, self._fallback = reader, fallback
        self._samples = SamplesByKey(reader)
        self._jpegs = JpegViews(reader) if reader.manifest.pixels == "jpeg" else None
        self._first_use = threading.Lock()  # one thread checks the digest of an object, the others wait

    def views(self, row: int, entry: ListingEntry, seeds: Sequence[int]) -> ImageViews:
        """The views of one image, one per seed.

        Raises:
            IntegrityError: an object of the cache is damaged, or pixels do not have their stored digest.
            CacheMismatchError: a JPEG decodes to other pixels here.
            SourceError: see ``fallback``.
        """
        stored_row = self._samples.present(entry.key, seeds) if set(seeds) <= set(self._reader.seeds) else None
        if stored_row is None:
            return self._fallback.views(row, entry, seeds)
        rows = [stored_row] * len(seeds)
        with self._first_use:
            stored = self._reader.read("pixels" if self._jpegs is None else JPEG, seeds, rows)
            digests = self._reader.read("pixel_digest", seeds, rows)
            parameters = np.concatenate([self._samples.views(seed, [stored_row]) for seed in seeds])
        patches, jpegs = stored, None
        if self._jpegs is not None:
            patches, jpegs = np.stack([self._jpegs.patches(seed, stored_row) for seed in seeds]), tuple(stored)
        for seed, view, digest in zip(seeds, patches, digests, strict=True):
            if not np.array_equal(pixel_digest(view), digest):
                raise IntegrityError(
                    f"{self._reader.root}: the stored pixels of {entry.key!r}, seed {seed}, do not have the digest "
                    f"that is stored for them; {REPAIR}"
                )
        pixels = unpatchify(patches, self._reader.manifest.recipe.patch_size)
        return ImageViews(row, pixels, parameters, jpegs=jpegs)
