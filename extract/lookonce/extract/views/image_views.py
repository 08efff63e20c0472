"""From listed images to batches of views: read and decode once, one crop a seed, or a reason why not."""

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
from lookonce.shared.sources import ImageSource, ListingEntry
from lookonce.shared.views import ViewRecipe, apply_view, draw_view

BATCHES_AHEAD = 2
"""Batches whose views are being made beyond those that are asked for."""


@dataclass(frozen=True)
class ImageViews:
    """The views of one image, one a seed, or why there are none."""

    row: int
    pixels: NDArray[np.uint8] | None
    """uint8 (seeds, size, size, 3)."""
    parameters: NDArray[np.int32] | None
    """int32 (seeds, 7): crop, flip and source size."""
    problem: UnreadableImageError | None = None


class ViewProducer(Protocol):
    """Where views come from; thread-safe."""

    def views(self, row: int, entry: ListingEntry, seeds: Sequence[int]) -> ImageViews:
        """The views of one image, one a seed, or why there are none.

        Raises:
            SourceError: the source, not the image, is at fault.
        """
        ...


@dataclass(frozen=True)
class CroppedViews:
    """Views cut out of the images of a source."""

    source: ImageSource
    recipe: ViewRecipe

    def views(self, row: int, entry: ListingEntry, seeds: Sequence[int]) -> ImageViews:
        """See ``image_views``."""
        return image_views(row, entry, self.source, self.recipe, seeds)


def image_views(
    row: int, entry: ListingEntry, source: ImageSource, recipe: ViewRecipe, seeds: Sequence[int]
) -> ImageViews:
    """Read and decode one image and cut its view for every seed; a bad image comes back as a problem.

    Raises:
        SourceError: the image is gone, cannot be read or was replaced. That says something about the source, not about
            the image: were it a hole, a folder that is unmounted during a run would leave nothing but holes.
    """
    try:
        with decoded_rgb(source.read(entry), entry.key) as image:
            drawn = [
                draw_view(recipe, key=entry.key, seed=seed, source_height=image.height, source_width=image.width)
                for seed in seeds
            ]
            pixels = np.stack([apply_view(image, parameters, recipe.size) for parameters in drawn])
            del image  # before its place in memory is given to another
    except UnreadableImageError as error:
        return ImageViews(row, None, None, error)
    return ImageViews(row, pixels, np.stack([parameters.to_row() for parameters in drawn]))


def batches_of_views(
    rows: Sequence[int],
    entries: Sequence[ListingEntry],
    producer: ViewProducer,
    seeds: Sequence[int],
    batch_size: int,
    threads: Executor,
) -> Iterator[list[ImageViews]]:
    """The views of ``batch_size`` images at a time, in order, while those of the next ones are being made.

    Args:
        rows: rows to look at, ascending.
        entries: their listing entries, as many.
        producer: where their views come from.
        seeds: augmentation seeds; each image is decoded once for all of them.
        batch_size: images a batch.
        threads: where views are made.
    """
    queue: collections.deque[list[Future[ImageViews]]] = collections.deque()
    for start in range(0, len(rows), batch_size):
        some = zip(rows[start : start + batch_size], entries[start : start + batch_size], strict=True)
        queue.append([threads.submit(producer.views, row, entry, seeds) for row, entry in some])
        if len(queue) > BATCHES_AHEAD:
            yield [future.result() for future in queue.popleft()]
    for making in queue:
        yield [future.result() for future in making]
