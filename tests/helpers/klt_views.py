"""Synthetic targets with the structure that KLT precisions use, and codes calibrated from them."""

from __future__ import annotations

import functools
import itertools
import math
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from lookonce.storage_schemas.precision.base import TargetShape
from lookonce.storage_schemas.precision.klt import calibration
from lookonce.storage_schemas.precision.klt.calibration import TargetStatistics
from lookonce.storage_schemas.precision.klt.view_code import ViewCode

LAYERS, CHANNELS, SIDE = 3, 8, 5
PATCHES = SIDE**2
SHAPE = TargetShape(patches=PATCHES, layers=LAYERS, channels=CHANNELS, all_patches=True)


def smooth_views(
    count: int, seed: int, *, side: int = SIDE, layers: int = LAYERS, channels: int = CHANNELS
) -> NDArray[np.float32]:
    """Targets whose layers repeat each other and whose neighbouring patches look alike, float32 (V, 1 + k, L, C)."""
    generator = np.random.default_rng(seed)
    grid = generator.standard_normal((count, side + 2, side + 2, channels))
    smooth = sum(grid[:, a : a + side, b : b + side] for a, b in itertools.product(range(3), range(3))) / 3
    smooth = smooth * np.geomspace(2, 0.2, channels) + 0.7
    values = smooth[:, :, :, None] + 0.1 * generator.standard_normal((count, side, side, layers, channels))
    tokens = values.reshape(count, side**2, layers, channels)
    classes = generator.standard_normal((count, 1, layers, channels))
    return np.concatenate([classes, tokens], axis=1).astype(np.float32)


@functools.cache
def calibrated(rate: float, *, shape: TargetShape = SHAPE, cosines: int | None = None, views: int = 400) -> ViewCode:
    """A code calibrated from smooth views of all patches, with so many cosines per axis or those of the least error."""
    side = math.isqrt(shape.patches)
    statistics = TargetStatistics(shape)
    with mock.patch.object(calibration, "COSINES", (cosines,) if cosines else calibration.COSINES):
        for start in range(0, views, 50):
            statistics.add(smooth_views(50, start, side=side, layers=shape.layers, channels=shape.channels))
        return statistics.code(rate)[0]


def relative_error(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Norm of the error over that of the values."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
