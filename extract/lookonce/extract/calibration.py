"""The calibration pass: it fixes the scales of a cache from a few hundred views, before any shard is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from lookonce.cache.write.stored_patches import stored_patch_ids
from lookonce.extract.sanity import check_finite
from lookonce.extract.teachers import Teacher, TeacherFeatures
from lookonce.extract.views.image_views import ViewProducer, batches_of_views
from lookonce.shared.errors import SourceError
from lookonce.shared.sources import ListingEntry
from lookonce.storage_schemas.arrays import target_shape
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.precision import (
    KltPrecision,
    automatic_percent,
    calibration_view_count,
    choose_precision,
    gathered_statistics,
    get_element_precision,
    get_precision,
)
from lookonce.storage_schemas.recipe import Recipe
from lookonce.storage_schemas.tokens import TokenSubset

BATCH_SIZE = 16
"""Views per forward pass; fixed, so that the calibration does not depend on ``--batch-size``."""

MAX_TOKENS = 1 << 15
"""Most tokens used for calibration; every view gives the same number, with the class token."""


def calibrate(
    precision: str,
    teacher: Teacher,
    producer: ViewProducer,
    entries: Sequence[ListingEntry],
    recipe: Recipe,
    *,
    seed: int,
    views: int,
) -> Encoding:
    """Run the teacher on evenly spread images and compute the parameters of the precision.

    Args:
        precision: name of the precision, or ``auto:PERCENT``.
        teacher: on its device.
        producer: makes views.
        entries: all entries of the listing.
        recipe: of the cache.
        seed: augmentation seed of the calibration views.
        views: most views to use.

    Raises:
        SourceError: none of the chosen images can be read.
        UsageError: no precision is within the percentage.
    """
    automatic = automatic_percent(precision) is not None
    codec = None if automatic else get_precision(precision)
    if codec is not None and not codec.calibrated:
        return Encoding(precision=precision, parameters={})
    if codec is None or isinstance(codec, KltPrecision):
        shape = target_shape(recipe)
        count = calibration_view_count(shape, views)
        batches = calibration_views(teacher, producer, entries, recipe.tokens, seed=seed, views=count)

        def warn(shortage: str) -> None:
            remedy = f"give --calibration-views above {count}" if count < len(entries) else "give more images"
            print(f"note: {shortage}; {remedy}, or take int8 or int4", file=sys.stderr, flush=True)

        if codec is not None:
            return Encoding(precision=precision, parameters=codec.calibrate_views(batches, shape, warn))
        choice = choose_precision(gathered_statistics(batches, shape, warn), precision)
        print(choice.text(precision), file=sys.stderr, flush=True)
        return Encoding(precision=choice.precision.name, parameters=choice.code.parameters())
    values = calibration_values(teacher, producer, entries, seed=seed, views=views)
    return Encoding(precision=precision, parameters=get_element_precision(precision).calibrate(values))


def calibration_values(
    teacher: Teacher,
    producer: ViewProducer,
    entries: Sequence[ListingEntry],
    *,
    seed: int,
    views: int,
) -> NDArray[np.float32]:
    """Calibration values: some tokens of evenly spread images.

    Args:
        teacher: on its device.
        producer: makes views.
        entries: the images to choose from.
        seed: augmentation seed of the views.
        views: most views to use.

    Returns:
        float32 (token, layer, channel), LayerNormed.

    Raises:
        SourceError: none of the chosen images can be read.
    """
    rows = _chosen_rows(len(entries), views)
    kept = _token_positions(teacher.tokens, max(2, MAX_TOKENS // len(rows)))
    values = np.empty((len(rows) * len(kept), len(teacher.blocks), teacher.width), dtype=np.float32)
    filled = 0
    for features, _ in _features(teacher, producer, entries, seed=seed, rows=rows):
        part = features.targets[:, kept].flatten(0, 1).cpu().numpy()
        values[filled : filled + len(part)] = part
        filled += len(part)
    return values[:filled]


def calibration_views(
    teacher: Teacher,
    producer: ViewProducer,
    entries: Sequence[ListingEntry],
    tokens: TokenSubset,
    *,
    seed: int,
    views: int,
) -> Iterator[NDArray[np.float32]]:
    """Whole views of evenly spread images, for precisions that are calibrated from views.

    Args:
        teacher: on its device.
        producer: makes views.
        entries: the images to choose from.
        tokens: which patches of a view the cache stores.
        seed: augmentation seed of the views.
        views: most views to use.

    Yields:
        float32 (V, 1 + k, layer, channel), LayerNormed, the class token first.

    Raises:
        SourceError: none of the chosen images can be read.
    """
    for features, keys in _features(teacher, producer, entries, seed=seed, rows=_chosen_rows(len(entries), views)):
        targets = features.targets.cpu().numpy()
        if not tokens.keeps_all:
            ids = stored_patch_ids(tokens, features.importance.cpu().numpy(), keys, seed)
            targets = np.take_along_axis(targets, np.pad(ids + 1, ((0, 0), (1, 0)))[..., None, None], axis=1)
        yield targets


def _chosen_rows(count: int, views: int) -> list[int]:
    return [int(row) for row in np.unique(np.linspace(0, count - 1, min(views, count)).round().astype(int))]


def _features(
    teacher: Teacher, producer: ViewProducer, entries: Sequence[ListingEntry], *, seed: int, rows: list[int]
) -> Iterator[tuple[TeacherFeatures, list[str]]]:
    """The teacher's features of batches of views, and the keys of their images."""
    device, found = teacher.mean.device, False
    with ThreadPoolExecutor() as threads:
        chosen = [entries[row] for row in rows]
        for batch in batches_of_views(rows, chosen, producer, [seed], BATCH_SIZE, threads):
            pixels = [image.pixels[0] for image in batch if image.pixels is not None]
            if pixels:
                features = teacher.extract(torch.from_numpy(np.stack(pixels)).to(device))
                keys = [entries[image.row].key for image in batch if image.pixels is not None]
                check_finite(features, keys, seed)
                found = True
                yield features, keys
    if not found:
        raise SourceError(f"none of the {len(rows)} images chosen for calibration can be read; check the images")


def _token_positions(tokens: int, count: int) -> list[int]:
    """Positions of the class token and of evenly spread patches."""
    return [int(position) for position in np.unique(np.linspace(0, tokens - 1, min(tokens, count)).round())]
