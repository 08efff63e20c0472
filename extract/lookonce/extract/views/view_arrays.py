"""The views of images as patches, written into arrays: by the calling thread, or elsewhere for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lookonce.extract.views.image_views import ViewProducer
from lookonce.shared.errors import UnreadableImageError
from lookonce.shared.patches import patchify
from lookonce.shared.sources import ListingEntry
from lookonce.shared.views import pixel_digest
from lookonce.storage_schemas.arrays import VIEW_FIELDS

DIGEST_BYTES = pixel_digest(np.empty(0, np.uint8)).size


@dataclass(frozen=True)
class ViewArrays:
    """Arrays for the views of n images, S seeds each, of N patches."""

    patches: NDArray[np.uint8]
    """uint8 (S, n, N, patch bytes)."""
    digests: NDArray[np.uint8]
    """uint8 (S, n, 16), see ``pixel_digest``."""
    parameters: NDArray[np.int32]
    """int32 (S, n, 7): crop, flip and source size."""
    jpegs: NDArray[np.object_]
    """object (S, n): the views as JPEG, bytes, if that is in their recipe, else None."""

    @classmethod
    def around(cls, patches: NDArray[np.uint8]) -> ViewArrays:
        """An array of patches, and new arrays for all else."""
        lead = patches.shape[:2]
        return cls(
            patches,
            np.empty((*lead, DIGEST_BYTES), dtype=np.uint8),
            np.empty((*lead, len(VIEW_FIELDS)), dtype=np.int32),
            np.full(lead, None, dtype=object),
        )

    def images(self, span: slice) -> ViewArrays:
        """The arrays of some of the images; they share memory."""
        return ViewArrays(self.patches[:, span], self.digests[:, span], self.parameters[:, span], self.jpegs[:, span])

    def fill(
        self, index: int, producer: ViewProducer, patch_size: int, row: int, entry: ListingEntry, seeds: Sequence[int]
    ) -> UnreadableImageError | None:
        """Make the views of one image and write them to place ``index``; an unreadable image is returned as a problem.

        Raises:
            SourceError: the source, not the image, is at fault.
        """
        views = producer.views(row, entry, seeds)
        if views.pixels is None or views.parameters is None:
            return views.problem
        for position, pixels in enumerate(views.pixels):
            patches = patchify(pixels, patch_size, out=self.patches[position, index])
            self.digests[position, index] = pixel_digest(patches)
        self.parameters[:, index] = views.parameters
        if views.jpegs is not None:
            self.jpegs[:, index] = views.jpegs
        return None


class ViewMaker(Protocol):
    """Makes the views of some images; thread-safe."""

    def images_per_call(self, images: int, seeds: int) -> int:
        """How many images ``make`` should get at a time, of so many that are wanted now with so many seeds each."""
        ...

    def make(
        self, rows: Sequence[int], entries: Sequence[ListingEntry], seeds: Sequence[int], into: ViewArrays
    ) -> list[UnreadableImageError | None]:
        """Write the views of n images into arrays of n images; returns the problem of each image that has no views.

        Raises:
            SourceError: the source, not an image, is at fault.
        """
        ...


@dataclass(frozen=True)
class ViewsInThread:
    """Makes views in the calling thread."""

    producer: ViewProducer
    patch_size: int
    """Side of a patch, pixels."""

    def images_per_call(self, images: int, seeds: int) -> int:
        """One, so that the threads share the work evenly."""
        return 1

    def make(
        self, rows: Sequence[int], entries: Sequence[ListingEntry], seeds: Sequence[int], into: ViewArrays
    ) -> list[UnreadableImageError | None]:
        """See ``ViewMaker.make``."""
        return [
            into.fill(index, self.producer, self.patch_size, row, entry, seeds)
            for index, (row, entry) in enumerate(zip(rows, entries, strict=True))
        ]
