"""From listed images to batches of views: one decoding, one crop per seed, or the reason why an image has no views."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.errors import UnreadableImageError
from lookonce.shared.images.decode import decoded_rgb
from lookonce.shared.images.jpeg_view import decode_view, encode_view
from lookonce.shared.sources import ImageSource, ListingEntry
from lookonce.shared.views import ViewRecipe, apply_view, draw_view

PREFETCHED_BATCHES = 2
"""Batches whose views are made ahead of the requested one."""


@dataclass(frozen=True)
class ImageViews:
    """The views of one image, one per seed, or the reason why there are none."""

    row: int
    pixels: NDArray[np.uint8] | None
    """uint8 (seeds, size, size, 3)."""
    parameters: NDArray[np.int32] | None
    """int32 (seeds, 7): crop, flip and source size."""
    problem: UnreadableImageError | None = None
    jpegs: tuple[bytes, ...] | None = None
    """The views as JPEG, one per seed, if that is in their recipe: ``pixels`` are what they decode to."""


class ViewProducer(Protocol):
    """Makes views; thread-safe."""

    def views(self, row: int, entry: ListingEntry, seeds: Sequence[int]) -> ImageViews:
        """The views of one image, one per seed, or the reason why there are none.

        Raises:
            SourceError: the source, not the image, is at fault.
        """
        ...


@dataclass(frozen=True)
class CroppedViews:
    """Views cropped from the images of a source."""

    source: ImageSource
    recipe: ViewRecipe

    def views(self, row: int, entry: ListingEntry, seeds: Sequence[int]) -> ImageViews:
        """See ``image_views``."""
        return image_views(row, entry, self.source, self.recipe, seeds)


def image_views(
    row: int, entry: ListingEntry, source: ImageSource, recipe: ViewRecipe, seeds: Sequence[int]
) -> ImageViews:
    """Decode one image and crop its view for every seed; an unreadable image is returned as a problem.

    Raises:
        SourceError: the image is gone, inaccessible or was replaced. This is a fault of the source, not of the image,
            and must not become a hole: an unmounted folder would leave nothing but holes.
    """
    try:
        with decoded_rgb(source.read(entry), entry.key) as image:
            drawn = [
                draw_view(recipe, key=entry.key, seed=seed, source_height=image.height, source_width=image.width)
                for seed in seeds
            ]
            views = [apply_view(image, parameters, recipe.size) for parameters in drawn]
            del image  # before the decoder gives its memory to another image
    except UnreadableImageError as error:
        return ImageViews(row, None, None, error)
    jpegs = None
    if recipe.jpeg_quality is not None:
        jpegs = tuple(encode_view(view, recipe.jpeg_quality) for view in views)
        views = [decode_view(jpeg, recipe.size) for jpeg in jpegs]
    return ImageViews(row, np.stack(views), np.stack([parameters.to_row() for parameters in drawn]), jpegs=jpegs)


def batches_of_views(
    rows: Sequence[int],
    entries: Sequence[ListingEntry],
    producer: ViewProducer,
    seeds: Sequence[int],
    batch_size: int,
    threads: Executor,
) -> Iterator[list[ImageViews]]:
    """The views of ``batch_size`` images at a time, in order, while the next ones are made.

    Args:
        rows: row numbers, ascending.
        entries: their listing entries, of the same length.
        producer: makes the views.
        seeds: augmentation seeds; each image is decoded once for all of them.
        batch_size: images per batch.
        threads: make the views.
    """
    queue: collections.deque[list[Future[ImageViews]]] = collections.deque()
    for start in range(0, len(rows), batch_size):
        some = zip(rows[start : start + batch_size], entries[start : start + batch_size], strict=True)
        queue.append([threads.submit(producer.views, row, entry, seeds) for row, entry in some])
        if len(queue) > PREFETCHED_BATCHES:
            yield [future.result() for future in queue.popleft()]
    for batch in queue:
        yield [future.result() for future in batch]
