"""Decoded features of evenly spread stored samples, for calibrating another precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.read.reader import CacheReader

CALIBRATION_SAMPLES = 256
"""Number of evenly spread samples that calibrate a precision."""

CALIBRATION_TOKENS = 1 << 15
"""Number of their tokens that are kept, with token 0 of every sample."""


def calibration_values(
    reader: CacheReader, seed: int, rows: NDArray[np.int64], *, samples: int = CALIBRATION_SAMPLES
) -> NDArray[np.float32]:
    """Read some tokens of evenly spread samples.

    Args:
        reader: the open cache.
        seed: augmentation seed of the views.
        rows: rows to choose from, at least one, without holes.
        samples: greatest number of samples.

    Returns:
        float32 (token, layer, channel), decoded.

    Raises:
        IntegrityError: an object is damaged.
    """
    chosen = rows[evenly_spread(len(rows), samples)]
    tokens = reader.manifest.array("targets").sample_shape[0]
    kept = evenly_spread(tokens, max(2, CALIBRATION_TOKENS // len(chosen)))
    teacher = reader.manifest.recipe.teacher
    values = np.empty((len(chosen), len(kept), len(teacher.blocks), teacher.width), dtype=np.float32)
    for place, row in enumerate(chosen):  # one at a time, because decoding copies
        values[place] = reader.decode(reader.read("targets", [seed], [row], kept[None]))[0]
    return values.reshape(-1, *values.shape[2:])


def evenly_spread(count: int, wanted: int) -> NDArray[np.int64]:
    """At most ``wanted`` positions below ``count``, int64, ascending, first and last among them.

    >>> evenly_spread(10, 4).tolist(), evenly_spread(3, 9).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(np.int64))
