"""The calibration pass: it fixes the scales of a cache from a few hundred views, before any shard is written."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from lookonce.extract.sanity import check_finite
from lookonce.extract.teachers import Teacher
from lookonce.extract.views.image_views import ViewProducer, batches_of_views
from lookonce.shared.errors import SourceError
from lookonce.shared.sources import ListingEntry
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.precision import get_precision

BATCH_SIZE = 16
"""Views per forward pass; fixed, so that the calibration does not depend on ``--batch-size``."""

MAX_TOKENS = 1 << 15
"""Most tokens used for calibration; every view gives the same number, with the class token."""


def calibrate(
    precision: str,
    teacher: Teacher,
    producer: ViewProducer,
    entries: Sequence[ListingEntry],
    *,
    seed: int,
    views: int,
) -> Encoding:
    """Run the teacher on evenly spread images and compute the parameters of the precision.

    Args:
        precision: name of the precision.
        teacher: on its device.
        producer: makes views.
        entries: all entries of the listing.
        seed: augmentation seed of the calibration views.
        views: most views to use.

    Raises:
        SourceError: none of the chosen images can be read.
    """
    codec = get_precision(precision)
    if not codec.calibrated:
        return Encoding(precision=precision, parameters={})
    values = calibration_values(teacher, producer, entries, seed=seed, views=views)
    return Encoding(precision=precision, parameters=codec.calibrate(values))


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
    rows = np.unique(np.linspace(0, len(entries) - 1, min(views, len(entries))).round().astype(int)).tolist()
    kept = _token_positions(teacher.tokens, max(2, MAX_TOKENS // len(rows)))
    values = np.empty((len(rows) * len(kept), len(teacher.blocks), teacher.width), dtype=np.float32)
    filled, device = 0, teacher.mean.device
    with ThreadPoolExecutor() as threads:
        chosen = [entries[row] for row in rows]
        for batch in batches_of_views(rows, chosen, producer, [seed], BATCH_SIZE, threads):
            pixels = [image.pixels[0] for image in batch if image.pixels is not None]
            if pixels:
                features = teacher.extract(torch.from_numpy(np.stack(pixels)).to(device))
                check_finite(features, [entries[image.row].key for image in batch if image.pixels is not None], seed)
                part = features.targets[:, kept].flatten(0, 1).cpu().numpy()
                values[filled : filled + len(part)] = part
                filled += len(part)
    if not filled:
        raise SourceError(f"none of the {len(rows)} images chosen for calibration can be read; check the images")
    return values[:filled]


def _token_positions(tokens: int, count: int) -> list[int]:
    """Positions of the class token and of evenly spread patches."""
    return [int(position) for position in np.unique(np.linspace(0, tokens - 1, min(tokens, count)).round())]
