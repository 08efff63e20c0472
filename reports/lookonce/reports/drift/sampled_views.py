"""The views that a drift check samples, and their pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.replayed_views import ReplayedViews
from lookonce.cache.read.whole_views import WholeViews, stored_views
from lookonce.shared.errors import IncompleteCacheError, UsageError
from lookonce.shared.patches import unpatchify
from lookonce.shared.randomness import random_permutation


@dataclass(frozen=True, kw_only=True)
class SampledView:
    """The place of a view in the cache."""

    key: str
    seed: int
    row: int


def sample_views(reader: CacheReader, count: int, sample_seed: int) -> list[SampledView]:
    """Views drawn without replacement from all that are no holes, by seed and row.

    Args:
        reader: the open cache.
        count: number of views; all if there are fewer.
        sample_seed: seed of the choice.

    Raises:
        IncompleteCacheError: every sample is a hole.
    """
    rows = [reader.rows(seed) for seed in reader.seeds]
    ends = np.cumsum([len(present) for present in rows])
    if not ends[-1]:
        raise IncompleteCacheError(f"{reader.root}: every sample is a hole, so there is nothing to compare")
    views = []
    for index in np.sort(random_permutation(int(ends[-1]), "drift", sample_seed)[:count]):
        position = int(np.searchsorted(ends, index, side="right"))
        seed, row = reader.seeds[position], int(rows[position][index - ends[position]])  # counted from the seed's end
        key = str(reader.column("key", seed, range(row, row + 1))[0])
        views.append(SampledView(key=key, seed=seed, row=row))
    return views


def places(views: Sequence[SampledView]) -> tuple[list[int], list[int]]:
    """Seeds and rows, as ``CacheReader.read`` takes them."""
    return [view.seed for view in views], [view.row for view in views]


def whole_views(reader: CacheReader, images: str | None) -> Callable[[Sequence[SampledView]], NDArray[np.uint8]]:
    """A function that gives views, uint8 (B, side, side, 3): stored pixels, or replayed ones checked by digest.

    Args:
        reader: the open cache.
        images: where to replay views from; None if the cache contains them.

    Raises:
        UsageError: the cache has no whole views and no images are given, or it has them and images are given.
        SourceError: images of the cache are not in the source.
    """
    recipe, whole = reader.manifest.recipe, stored_views(reader)

    def cut_from(whole: WholeViews) -> Callable[[Sequence[SampledView]], NDArray[np.uint8]]:
        def cut(views: Sequence[SampledView]) -> NDArray[np.uint8]:
            return unpatchify(np.stack([whole.patches(view.seed, view.row) for view in views]), recipe.patch_size)

        return cut

    if whole is not None:
        if images is not None:
            raise UsageError(
                f"--images {images}: {reader.root} contains whole views, and drift compares those; leave --images out"
            )
        return cut_from(whole)
    if images is None:
        why = f"--tokens {recipe.tokens.kind}" if reader.manifest.stores_pixels else "--pixels none"
        raise UsageError(
            f"{reader.root}: it was made with {why} and does not contain whole views, which the teacher must see; "
            "give the images that it was made from: --images SOURCE"
        )
    return cut_from(ReplayedViews(reader, images))
