"""The exact features that precisions are compared with, and those that calibrate them, from other images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.read import calibration_features
from lookonce.cache.read.reader import CacheReader
from lookonce.shared.errors import CacheMismatchError, IncompleteCacheError
from lookonce.storage_schemas.arrays import JPEG, Moments, target_shape
from lookonce.storage_schemas.precision import PRECISIONS, calibration_view_count, get_precision
from lookonce.storage_schemas.recipe import Recipe

ENOUGH_IMAGES = 16
"""With fewer, the same images calibrate and judge: errors of a calibration on so few would exceed those of the bits."""

BATCH_BYTES = 32 << 20
"""Approximate size of a batch of decoded features; bounds the memory for every teacher."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Features, where they are from, and what they can judge."""

    facts: Mapping[str, Any]
    """Kind, name, precision and whose views, JSON-compatible."""
    bits: float
    """Bits a value of the reference: only precisions of fewer can be judged."""
    recipe: Recipe
    store_pixels: bool
    """Whether a view's bytes count its pixels."""
    moments: Moments
    """How mean and standard deviation of tokens are stored, which a view's bytes count."""
    jpeg_bytes: float
    """Mean bytes of a view's JPEG, which its bytes count; 0 if views are no JPEGs."""
    calibrate: Callable[[], NDArray[np.float32]]
    """What precisions are calibrated from, float32 (token, layer, channel)."""
    calibration_views: Callable[[], Iterator[NDArray[np.float32]]]
    """What KLT precisions are calibrated from, float32 (view, token, layer, channel) each."""
    batches: Callable[[], Iterator[NDArray[np.float32]]]
    """Gives the features that judge, float32 (view, token, layer, channel) each."""

    def judged(self) -> tuple[list[str], dict[str, str]]:
        """Precisions that can be judged, and why each of the others can not."""
        left_out = {
            name: f"{precision.bits_per_value:g} bits cannot be judged from a reference of {self.bits:g}"
            for name, precision in PRECISIONS.items()
            if precision.bits_per_value >= self.bits
        }
        return [name for name in PRECISIONS if name not in left_out], left_out


def split_images(count: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the images to judge by, evenly spread and at most half of all, and of the others, to calibrate on.

    Fewer than ``ENOUGH_IMAGES`` are not split: both are all of them.

    >>> [part.tolist() for part in split_images(16, 2)]
    [[0, 15], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]]
    """
    if count < ENOUGH_IMAGES:
        return np.arange(count), np.arange(count)
    judged = calibration_features.evenly_spread(count, min(wanted, count // 2))
    return judged, np.setdiff1d(np.arange(count), judged)


def views_a_batch(recipe: Recipe) -> int:
    """How many views of decoded features make ``BATCH_BYTES``, at least 1."""
    values = (recipe.stored_patches + 1) * len(recipe.teacher.blocks) * recipe.teacher.width
    return max(1, BATCH_BYTES // (4 * values))


def reference_facts(
    kind: str,
    name: str,
    precision: str,
    recipe: Recipe,
    *,
    judged: NDArray[np.int64],
    others: NDArray[np.int64],
    seeds: Sequence[int],
    calibration_views: int,
) -> dict[str, Any]:
    """What the reference is, for people and for JSON.

    Args:
        kind: ``cache`` or ``teacher``.
        name: folder of the cache, or the images of the teacher.
        precision: of the reference.
        recipe: recipe of the features.
        judged: images that are judged by.
        others: images that may be calibrated on.
        seeds: augmentation seeds, each with one view of every image.
        calibration_views: how many are calibrated on, at most, of the first seed; for KLT precisions see
            ``calibration_view_count``.
    """
    return {
        "kind": kind,
        "name": name,
        "precision": precision,
        "teacher": recipe.teacher.name,
        "blocks": list(recipe.teacher.blocks),
        "tokens": recipe.stored_patches + 1,
        "channels": recipe.teacher.width,
        "images": len(judged),
        "seeds": list(seeds),
        "calibration_images": min(calibration_views, len(others)),
        "klt_calibration_images": min(calibration_view_count(target_shape(recipe), calibration_views), len(others)),
        "split": not np.intersect1d(judged, others).size,
    }


def _jpeg_bytes(reader: CacheReader, rows: NDArray[np.int64]) -> float:
    """Mean bytes of the JPEGs of some rows' views, of the first seed; 0 if views are no JPEGs."""
    if reader.manifest.pixels != "jpeg":
        return 0.0
    return float(np.mean([len(jpeg) for jpeg in reader.read(JPEG, [reader.seeds[0]] * len(rows), rows)]))


def cache_reference(root: Path, *, seeds: Sequence[int] | None, views: int, calibration_views: int) -> Reference:
    """A cache's decoded targets as the reference.

    Args:
        root: the cache folder; the seeds must be whole.
        seeds: which seeds' views; None for all.
        views: views to judge by, at most, over all seeds; at least one image's.
        calibration_views: views to calibrate on, at most.

    Raises:
        CacheMismatchError: no precision has fewer bits than the cache.
        IncompleteCacheError: no sample is present in every seed.
        CacheError: see ``CacheReader``.
    """
    reader = CacheReader(root, seeds=seeds)
    manifest, found = reader.manifest, get_precision(reader.manifest.encoding.precision)
    rows = functools.reduce(np.intersect1d, [reader.rows(seed) for seed in reader.seeds])
    if not len(rows):
        raise IncompleteCacheError(f"{root}: no sample is there in every seed, so there is nothing to judge by")
    judged, others = (rows[part] for part in split_images(len(rows), -(-views // len(reader.seeds))))
    many = calibration_view_count(target_shape(manifest.recipe), calibration_views)

    def batches() -> Iterator[NDArray[np.float32]]:
        size = views_a_batch(manifest.recipe)
        for seed in reader.seeds:
            for start in range(0, len(judged), size):
                batch = judged[start : start + size]
                yield reader.read_targets([seed] * len(batch), batch)

    reference = Reference(
        facts=reference_facts(
            "cache",
            str(root),
            found.name,
            manifest.recipe,
            judged=judged,
            others=others,
            seeds=reader.seeds,
            calibration_views=calibration_views,
        ),
        bits=found.bits_per_value,
        recipe=manifest.recipe,
        store_pixels=manifest.stores_pixels,
        moments=manifest.moments,
        jpeg_bytes=_jpeg_bytes(reader, judged),
        calibrate=lambda: calibration_features.calibration_values(
            reader, reader.seeds[0], others, samples=calibration_views
        ),
        calibration_views=lambda: calibration_features.calibration_views(
            reader, reader.seeds[0], others, manifest.recipe.tokens, samples=many
        ),
        batches=batches,
    )
    if not reference.judged()[0]:
        raise CacheMismatchError(
            f"{root}: it stores {found.name}, and no precision has fewer bits; judge from a cache of more bits (best "
            "fp16), or from the teacher with --teacher NAME --images SOURCE"
        )
    return reference
