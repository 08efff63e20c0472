"""Errors of a precision's values: relative error, cosine, and the outlier channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

OUTLIER_RATIO = 4.0
"""A channel is an outlier when its root mean square is at least this many times that of its layer's median channel.

LayerNormed tokens have a root mean square of 1 over their channels; CLIP has a few channels of 15 to 25."""

LOWEST_SHARE = 1.0
"""Percentile of the cosines that describes the worst tokens."""


@dataclass(frozen=True, kw_only=True)
class OutlierChannel:
    """A channel of large magnitude."""

    block: int
    """1-based teacher block."""
    channel: int
    root_mean_square: float
    """Over tokens."""
    mean: float
    """Over tokens."""
    largest: float
    """Largest magnitude."""


@dataclass(frozen=True, kw_only=True)
class ChannelStatistics:
    """Statistics over tokens of each (layer, channel)."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    """Standard deviation over tokens."""
    largest: NDArray[np.float64]
    """Largest magnitude."""

    @property
    def root_mean_square(self) -> NDArray[np.float64]:
        """Over tokens."""
        magnitude: NDArray[np.float64] = np.sqrt(np.square(self.mean) + np.square(self.deviation))
        return magnitude

    @property
    def outliers(self) -> NDArray[np.bool_]:
        """Which ones are outliers; all others are the bulk."""
        magnitude = self.root_mean_square
        found: NDArray[np.bool_] = magnitude >= OUTLIER_RATIO * np.median(magnitude, axis=1, keepdims=True)
        return found

    @property
    def largest_ratio(self) -> float:
        """The largest root mean square over its layer's median."""
        magnitude = self.root_mean_square
        return float((magnitude / np.median(magnitude, axis=1, keepdims=True)).max())

    def outlier_channels(self, blocks: tuple[int, ...]) -> list[OutlierChannel]:
        """The outliers, largest first.

        Args:
            blocks: 1-based teacher block of each layer.
        """
        magnitude = self.root_mean_square
        where = [(int(layer), int(channel)) for layer, channel in np.argwhere(self.outliers)]
        return [
            OutlierChannel(
                block=blocks[place[0]],
                channel=place[1],
                root_mean_square=float(magnitude[place]),
                mean=float(self.mean[place]),
                largest=float(self.largest[place]),
            )
            for place in sorted(where, key=lambda place: -magnitude[place])
        ]


def channel_statistics(values: NDArray[np.float32]) -> ChannelStatistics:
    """Statistics of values (token, layer, channel), float32; at least one token."""
    layers = [values[:, layer] for layer in range(values.shape[1])]  # one at a time: float64 copies would be large
    return ChannelStatistics(
        mean=np.stack([layer.mean(axis=0, dtype=np.float64) for layer in layers]),
        deviation=np.stack([layer.std(axis=0, dtype=np.float64) for layer in layers]),
        largest=np.stack([np.maximum(layer.max(axis=0), -layer.min(axis=0)).astype(np.float64) for layer in layers]),
    )


class ErrorMeter:
    """Adds up errors over batches; keeps one cosine per token and layer.

    Args:
        outliers: bool (layer, channel): which channels are outliers.
    """

    def __init__(self, outliers: NDArray[np.bool_]) -> None:
        self._outliers = outliers
        self._error, self._exact = np.zeros(outliers.shape), np.zeros(outliers.shape)
        self._cosines: list[NDArray[np.float32]] = []

    def add(self, exact: NDArray[np.float32], restored: NDArray[np.float32]) -> None:
        """Add a batch, (view, token, layer, channel) both."""
        error = restored - exact
        for view_error, view_exact in zip(error, exact, strict=True):  # short float32 sums, added up in float64
            self._error += np.einsum("tlc,tlc->lc", view_error, view_error)
            self._exact += np.einsum("tlc,tlc->lc", view_exact, view_exact)
        products = np.einsum("btlc,btlc->btl", exact, restored)
        lengths = np.linalg.norm(exact, axis=-1) * np.linalg.norm(restored, axis=-1)
        self._cosines.append(np.minimum(products / np.maximum(lengths, np.float32(1e-20)), np.float32(1)).ravel())

    def errors(self) -> dict[str, Any]:
        """The measures so far.

        Returns:
            ``relative_error`` (norm of the error over norm of the exact values, all channels), the same of bulk and
            of outlier channels (None when there are no outliers), ``relative_error_of_layers`` (bulk, by layer), and
            ``cosine_mean`` and ``cosine_lowest`` (first percentile) over tokens and layers, all channels.
        """
        bulk = ~self._outliers
        cosines = np.concatenate(self._cosines)
        return {
            "relative_error": self._relative_error(np.ones_like(bulk)),
            "relative_error_bulk": self._relative_error(bulk),
            "relative_error_outliers": self._relative_error(self._outliers) if self._outliers.any() else None,
            "relative_error_of_layers": [
                float(np.sqrt(error[kept].sum() / exact[kept].sum()))
                for error, exact, kept in zip(self._error, self._exact, bulk, strict=True)
            ],
            "cosine_mean": float(cosines.mean(dtype=np.float64)),
            "cosine_lowest": float(np.percentile(cosines, LOWEST_SHARE)),
        }

    def _relative_error(self, kept: NDArray[np.bool_]) -> float:
        return float(np.sqrt(self._error[kept].sum() / self._exact[kept].sum()))
