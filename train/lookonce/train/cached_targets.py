"""One step's input from the cache: masks from stored importance, visible pixels, visible tokens' targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookonce.cache.reader import CacheReader
from lookonce.shared.masking import mask_noise, visible_patches
from lookonce.train.sample_order import SamplesOfStep


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What the student needs of one step; nothing of masked patches is in it."""

    visible_pixels: Tensor
    """uint8 (B, k, patch size squared * 3)."""
    visible_ids: Tensor
    """int64 (B, k), ascending patch numbers."""
    stored_targets: Tensor
    """Encoded elements (B, 1 + k, cache layers, stored channels); token 0 is the class token."""
    token_mean: Tensor | None
    """float32 (B, T, cache layers), of all T tokens; None when the target norm does not need it."""
    token_std: Tensor | None
    """float32 (B, T, cache layers)."""

    def to(self, device: torch.device) -> Batch:
        """The batch on a device, copied asynchronously from pinned memory where there is a GPU."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

        return Batch(
            visible_pixels=move(self.visible_pixels),
            visible_ids=move(self.visible_ids),
            stored_targets=move(self.stored_targets),
            token_mean=None if self.token_mean is None else move(self.token_mean),
            token_std=None if self.token_std is None else move(self.token_std),
        )


class PixelSource(Protocol):
    """Where visible patches come from; thread-safe."""

    def visible_pixels(
        self, seeds: NDArray[np.int64], rows: NDArray[np.int64], ids: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """uint8 (B, k, patch bytes) of patches ``ids`` (B, k) of the views (row, seed)."""
        ...


class StoredPixels:
    """Views as the cache stores them."""

    def __init__(self, reader: CacheReader) -> None:
        self._reader = reader

    def visible_pixels(
        self, seeds: NDArray[np.int64], rows: NDArray[np.int64], ids: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Gathered from the ``pixels`` array."""
        pixels: NDArray[np.uint8] = self._reader.read("pixels", seeds, rows, ids)
        return pixels


class CachedTargets:
    """Reads batches; thread-safe, a pure function of the samples asked for.

    Args:
        reader: the open cache.
        pixels: where visible patches come from.
        mask: kind of mask (see ``shared.masking``).
        mask_ratio: share of hidden patches.
        run_seed: seed of the masks.
        with_moments: whether every token's mean and std are read too (target norms but "whiten").
    """

    def __init__(
        self,
        reader: CacheReader,
        pixels: PixelSource,
        *,
        mask: str,
        mask_ratio: float,
        run_seed: int,
        with_moments: bool,
    ) -> None:
        self._reader, self._pixels = reader, pixels
        self._mask, self._mask_ratio, self._run_seed = mask, mask_ratio, run_seed
        self._with_moments = with_moments
        self._keys: list[str] = list(reader.column("key", reader.seeds[0]))

    def visible_ids(self, samples: SamplesOfStep) -> NDArray[np.int64]:
        """Visible patches of each sample, int64 (B, k): drawn from (run seed, epoch, key, augmentation seed)."""
        importance = self._reader.read("importance", samples.seeds, samples.rows)
        noise = np.empty(importance.shape, dtype=np.float64)
        for epoch in np.unique(samples.epochs):
            inside = np.flatnonzero(samples.epochs == epoch)
            keys = [self._keys[row] for row in samples.rows[inside]]
            seeds = samples.seeds[inside].tolist()
            noise[inside] = mask_noise(self._run_seed, int(epoch), keys, seeds, importance.shape[1])
        return visible_patches(self._mask, importance, noise, self._mask_ratio)

    def batch(self, samples: SamplesOfStep) -> Batch:
        """Read the input of one step.

        Raises:
            IntegrityError: an object of the cache is missing or damaged; names it.
        """
        ids = self.visible_ids(samples)
        tokens = np.concatenate([np.zeros((len(ids), 1), dtype=np.int64), ids + 1], axis=1)
        seeds, rows = samples.seeds, samples.rows
        read = self._reader.read
        moments = self._with_moments
        return Batch(
            visible_pixels=torch.from_numpy(self._pixels.visible_pixels(seeds, rows, ids)),
            visible_ids=torch.from_numpy(ids),
            stored_targets=torch.from_numpy(read("targets", seeds, rows, tokens)),
            token_mean=torch.from_numpy(read("target_mean", seeds, rows)) if moments else None,
            token_std=torch.from_numpy(read("target_std", seeds, rows)) if moments else None,
        )
