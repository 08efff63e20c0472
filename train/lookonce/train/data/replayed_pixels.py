"""Visible patches of a cache without pixels: its views are replayed from the images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.replayed_views import ReplayedViews
from lookonce.train.data.mask_choice import VisiblePatches

CHECKED_BEFORE_TRAINING = 16
"""Views replayed and compared before the first step; the others are compared when they are used."""


class ReplayedPixels:
    """Replays views from the images that the cache was made from; thread-safe.

    Args:
        reader: the open cache.
        images: image source, as given to extract-features.

    Raises:
        SourceError: images of the cache are not in the source.
        CacheMismatchError: a replayed view differs from the one that the teacher saw.
    """

    def __init__(self, reader: CacheReader, images: str) -> None:
        self._views = ReplayedViews(reader, images)
        seed = reader.seeds[0]
        rows = reader.rows(seed)
        for row in rows[:: max(1, len(rows) // CHECKED_BEFORE_TRAINING)]:
            self._views.patches(seed, int(row))

    def visible_pixels(
        self, seeds: NDArray[np.int64], rows: NDArray[np.int64], visible: VisiblePatches, out: NDArray[np.uint8]
    ) -> None:
        """Visible patches of the replayed views.

        Raises:
            CacheMismatchError: a replayed view differs from the one that the teacher saw.
        """
        for position, (seed, row) in enumerate(zip(seeds.tolist(), rows.tolist(), strict=True)):
            out[position] = self._views.patches(seed, row)[visible.ids[position]]
