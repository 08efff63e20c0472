"""Replays views that a cache does not store completely: crops the source images again and checks the digests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.read.reader import CacheReader
from lookonce.shared.errors import CacheMismatchError, SourceError
from lookonce.shared.images.decode import decoded_rgb
from lookonce.shared.images.jpeg_view import decode_view, encode_view
from lookonce.shared.patches import patchify
from lookonce.shared.sources import open_source
from lookonce.shared.views import ViewParameters, apply_view, pixel_digest


class ReplayedViews:
    """Replays views from the source images of a cache. Thread-safe.

    Args:
        reader: the open cache.
        images: image source, as given to extract-features.

    Raises:
        SourceError: the source lacks images of the cache.
    """

    def __init__(self, reader: CacheReader, images: str) -> None:
        self._reader = reader
        self._source = open_source(images)
        self._listing = self._source.listing()
        keys: list[str] = reader.column("key", reader.seeds[0]).tolist()
        rows = np.unique(np.concatenate([reader.rows(seed) for seed in reader.seeds]))
        self._positions = self._listing.positions(keys)
        missing = rows[self._positions[rows] < 0]
        if len(missing):
            raise SourceError(
                f"{images}: {len(missing)} of the cache's {len(rows)} images are missing there (first: "
                f"{keys[missing[0]]!r}); give the images that the cache was made from, or extract with --pixels store"
            )
        self._views = {seed: reader.column("view", seed) for seed in reader.seeds}

    def patches(self, seed: int, row: int) -> NDArray[np.uint8]:
        """All patches of one view, as ``patchify`` returns them: uint8 (patches, patch size squared * 3).

        Raises:
            CacheMismatchError: its pixels differ from those that the teacher saw.
            SourceError: the image is missing or cannot be read.
        """
        entry = self._listing.entries[self._positions[row]]
        recipe = self._reader.manifest.recipe
        with decoded_rgb(self._source.read(entry), entry.key) as image:
            pixels = apply_view(image, ViewParameters.from_row(self._views[seed][row]), recipe.view_size)
        if recipe.jpeg_quality is not None:
            pixels = decode_view(encode_view(pixels, recipe.jpeg_quality), recipe.view_size)
        patches = patchify(pixels, recipe.patch_size)
        expected = self._reader.read("pixel_digest", [seed], [row])[0]
        if not np.array_equal(pixel_digest(patches), expected):
            raise CacheMismatchError(
                f"{self._reader.place}: the view of {entry.key!r}, seed {seed}, replayed from the image has other "
                "pixels than the teacher saw: the image changed, or this Pillow decodes or resizes differently from "
                f"that of the cache ({self._reader.manifest.created_with.get('pillow', 'version unknown')}), or it is "
                "a deep or signed TIFF that was read wrongly then (see CHANGELOG.md); install that version, or extract "
                "again, with --pixels store to need no images"
            )
        return patches
