"""How far the values of two caches differ, on some views that both have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.samples_by_key import SamplesByKey

BATCH = 4
"""Views that are decoded at once."""


@dataclass(frozen=True, kw_only=True)
class ValueDifference:
    """Differences over the compared views."""

    views: int
    blocks: tuple[int, ...]
    """Teacher blocks that both caches have."""
    same_pixels: float | None
    """Share of the views whose pixels are equal; None if a cache stores none."""
    relative_error: dict[int, float]
    """By block: norm of the difference of the targets over the norm of those of the first cache."""
    largest: float
    """Largest absolute difference of a target."""
    importance: float
    """Largest absolute difference of an importance."""

    @property
    def equal(self) -> bool:
        """Whether all compared values are equal."""
        return self.same_pixels in (None, 1.0) and self.largest == 0 and self.importance == 0


def compare_values(first: CacheReader, second: CacheReader, views: int) -> ValueDifference | None:
    """Compare views that both caches have, evenly spread over keys and common seeds.

    Args:
        first: a cache with at least one complete seed.
        second: another one, with the same patches of each view and channels of a token.
        views: most views to compare.

    Returns:
        None if there is no common view or block.

    Raises:
        IntegrityError: an object is damaged.
    """
    teachers = first.manifest.recipe.teacher, second.manifest.recipe.teacher
    blocks = tuple(block for block in teachers[0].blocks if block in teachers[1].blocks)
    pairs = _common_views(first, second, views)
    if not pairs or not blocks:
        return None
    layers = first.layer_positions(blocks), second.layer_positions(blocks)
    squares, norms = np.zeros(len(blocks)), np.zeros(len(blocks))
    largest = importance = 0.0
    same: list[bool] = []
    for start in range(0, len(pairs), BATCH):
        part = pairs[start : start + BATCH]
        seeds, ours, theirs = ([pair[place] for pair in part] for place in range(3))
        one = first.read_targets(seeds, ours)[:, :, layers[0]].astype(np.float64)
        other = second.read_targets(seeds, theirs)[:, :, layers[1]].astype(np.float64)
        squares += np.square(one - other).sum(axis=(0, 1, 3))
        norms += np.square(one).sum(axis=(0, 1, 3))
        largest = max(largest, float(np.abs(one - other).max()))
        importance = max(importance, _largest_difference(first, second, seeds, ours, theirs))
        if first.manifest.stores_pixels and second.manifest.stores_pixels:
            pixels = first.read("pixels", seeds, ours), second.read("pixels", seeds, theirs)
            same += [np.array_equal(a, b) for a, b in zip(*pixels, strict=True)]
    errors = np.sqrt(squares / np.maximum(norms, np.finfo(np.float64).tiny))
    return ValueDifference(
        views=len(pairs),
        blocks=blocks,
        same_pixels=float(np.mean(same)) if same else None,
        relative_error={block: float(error) for block, error in zip(blocks, errors, strict=True)},
        largest=largest,
        importance=importance,
    )


def _largest_difference(
    first: CacheReader, second: CacheReader, seeds: list[int], ours: list[int], theirs: list[int]
) -> float:
    one, other = first.read("importance", seeds, ours), second.read("importance", seeds, theirs)
    return float(np.abs(one.astype(np.float64) - other).max())


def _common_views(first: CacheReader, second: CacheReader, views: int) -> list[tuple[int, int, int]]:
    """(seed, row of the first, row of the second) of views that are holes in neither."""
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    if not seeds:
        return []
    keys: NDArray[np.str_] = first.column("key", seeds[0])
    finder, found = SamplesByKey(second), list[tuple[int, int, int]]()
    present = {seed: set(first.rows(seed).tolist()) for seed in seeds}
    chosen = np.unique(np.linspace(0, len(keys) - 1, min(len(keys), max(1, views // len(seeds)))).round().astype(int))
    for row in chosen.tolist():
        for seed in seeds:
            other = finder.present(str(keys[row]), [seed])
            if other is not None and row in present[seed]:
                found.append((seed, row, other))
    return found[:views]
