"""Decoded features of evenly spread stored samples, for calibrating another precision."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.write.stored_patches import stored_patch_ids
from lookonce.storage_schemas.arrays import target_shape
from lookonce.storage_schemas.tokens import TokenSubset

CALIBRATION_SAMPLES = 256
"""Number of evenly spread samples that calibrate a precision."""

CALIBRATION_TOKENS = 1 << 15
"""Number of their tokens that are kept, with token 0 of every sample."""


VIEWS_AT_A_TIME = 16
"""Views that ``calibration_views`` decodes together."""


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
    tokens = target_shape(reader.manifest.recipe).patches + 1
    kept = evenly_spread(tokens, max(2, CALIBRATION_TOKENS // len(chosen)))
    teacher = reader.manifest.recipe.teacher
    values = np.empty((len(chosen), len(kept), len(teacher.blocks), teacher.width), dtype=np.float32)
    for place, row in enumerate(chosen):  # one at a time, because decoding copies
        values[place] = reader.read_targets([seed], [row], kept[None])[0]
    return values.reshape(-1, *values.shape[2:])


def calibration_views(
    reader: CacheReader, seed: int, rows: NDArray[np.int64], tokens: TokenSubset, *, samples: int
) -> Iterator[NDArray[np.float32]]:
    """Whole views of evenly spread samples, for precisions that are calibrated from views.

    Args:
        reader: the open cache.
        seed: whose views.
        rows: rows to choose from, at least one, none of them a hole.
        tokens: which patches of the views are wanted: the cache's own subset, or one of a cache of all patches.
        samples: how many samples, at most.

    Yields:
        float32 (V, 1 + k, layer, channel), as the cache decodes them, ``VIEWS_AT_A_TIME`` views at most.

    Raises:
        IntegrityError: an object is damaged.
    """
    chosen = rows[evenly_spread(len(rows), samples)]
    for start in range(0, len(chosen), VIEWS_AT_A_TIME):
        some = chosen[start : start + VIEWS_AT_A_TIME]
        kept = None if tokens == reader.manifest.recipe.tokens else kept_tokens(reader, tokens, seed, some)
        yield reader.read_targets([seed] * len(some), some, kept)


def kept_tokens(reader: CacheReader, tokens: TokenSubset, seed: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the tokens that a subset keeps of a cache of all patches, int64 (B, 1 + k), class token first."""
    importance = reader.read("importance", [seed] * len(rows), rows)
    keys = [str(reader.column("key", seed, range(row, row + 1))[0]) for row in rows.tolist()]
    return np.pad(stored_patch_ids(tokens, importance, keys, seed) + 1, ((0, 0), (1, 0)))


def evenly_spread(count: int, wanted: int) -> NDArray[np.int64]:
    """At most ``wanted`` positions below ``count``, int64, ascending, first and last among them.

    >>> evenly_spread(10, 4).tolist(), evenly_spread(3, 9).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(np.int64))
