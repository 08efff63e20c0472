"""Visible patches of views that are decoded whole: from the JPEGs of a cache, or replayed from its images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.whole_views import WholeViews
from lookonce.storage_schemas.arrays import JPEG
from lookonce.train.data.mask_choice import VisiblePatches

CHECKED_BEFORE_TRAINING = 16
"""Views decoded and compared before the first step; the others are compared when they are used."""


class DecodedPixels:
    """Decodes views and picks their visible patches; thread-safe.

    Args:
        reader: the open cache.
        views: its whole views.

    Raises:
        CacheMismatchError: a decoded view differs from the one that the teacher saw.
        IntegrityError: an object of the cache is damaged.
    """

    def __init__(self, reader: CacheReader, views: WholeViews) -> None:
        self._views = views
        self.arrays: tuple[str, ...] = (JPEG,) if reader.manifest.pixels == "jpeg" else ()
        seed = reader.seeds[0]
        rows = reader.rows(seed)
        for row in rows[:: max(1, len(rows) // CHECKED_BEFORE_TRAINING)]:
            self._views.patches(seed, int(row))

    def visible_pixels(
        self, seeds: NDArray[np.int64], rows: NDArray[np.int64], visible: VisiblePatches, out: NDArray[np.uint8]
    ) -> None:
        """Visible patches of the decoded views.

        Raises:
            CacheMismatchError: a decoded view differs from the one that the teacher saw.
            IntegrityError: an object of the cache is damaged.
        """
        for position, (seed, row) in enumerate(zip(seeds.tolist(), rows.tolist(), strict=True)):
            patches = self._views.patches(seed, row)
            patches.take(visible.ids[position], axis=0, out=out[position], mode="clip")  # ids are patches of the view
