"""One step's input from the cache: masks from stored importance, visible pixels, visible tokens' targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookonce.cache.reader import CacheReader
from lookonce.shared.errors import IntegrityError
from lookonce.shared.masking import draw_patches, mask_noise, visible_count
from lookonce.train.masks import VisiblePatches
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
    tokens: Tensor
    """int64 (B, 1 + k): where these tokens lie among the stored T; 0 is the class token."""
    token_mean: Tensor | None
    """float32 (B, T, cache layers), of all stored tokens; None when the target norm does not need it."""
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
            tokens=move(self.tokens),
            token_mean=None if self.token_mean is None else move(self.token_mean),
            token_std=None if self.token_std is None else move(self.token_std),
        )


class PixelSource(Protocol):
    """Where visible patches come from; thread-safe."""

    def visible_pixels(
        self, seeds: NDArray[np.int64], rows: NDArray[np.int64], visible: VisiblePatches
    ) -> NDArray[np.uint8]:
        """uint8 (B, k, patch bytes) of the visible patches of the views (row, seed)."""
        ...


class StoredPixels:
    """Views as the cache stores them."""

    def __init__(self, reader: CacheReader) -> None:
        self._reader = reader

    def visible_pixels(
        self, seeds: NDArray[np.int64], rows: NDArray[np.int64], visible: VisiblePatches
    ) -> NDArray[np.uint8]:
        """Gathered from the ``pixels`` array."""
        pixels: NDArray[np.uint8] = self._reader.read("pixels", seeds, rows, visible.positions)
        return pixels


class CachedTargets:
    """Reads batches; thread-safe, a pure function of the samples asked for.

    Args:
        reader: the open cache.
        pixels: where visible patches come from.
        mask: kind of mask (see ``shared.masking``).
        mask_ratio: share of hidden patches; ``masks.choose_masks`` says which masks the cache allows.
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
        self._mask, self._run_seed, self._with_moments = mask, run_seed, with_moments
        recipe = reader.manifest.recipe
        self._visible = visible_count(recipe.patches, mask_ratio)
        self._patches = recipe.patches
        self._stored, self._subset = recipe.stored_patches, not recipe.tokens.whole
        moments = ("target_mean", "target_std") if with_moments else ()
        pixel_arrays = ("pixels",) if isinstance(pixels, StoredPixels) else ()
        self._announced = ("targets", *pixel_arrays, *moments)
        self._keys: list[str] = list(reader.column("key", reader.seeds[0]))

    def visible(self, samples: SamplesOfStep) -> VisiblePatches:
        """Visible patches of each sample: drawn from (run seed, epoch, key, its seed) inside what is stored."""
        stored_ids = self._stored_ids(samples)
        if self._visible == self._stored:  # all that there is: nothing to draw
            everything = np.broadcast_to(np.arange(self._stored), (len(samples.rows), self._stored))
            return VisiblePatches(ids=everything if stored_ids is None else stored_ids, positions=everything)
        importance = self._reader.read("importance", samples.seeds, samples.rows)
        noise = self._noise(samples, importance.shape[1])
        if stored_ids is None:
            ids = draw_patches(self._mask, importance, noise, self._visible)
            return VisiblePatches(ids=ids, positions=ids)
        importance = np.take_along_axis(importance, stored_ids, axis=1)
        positions = draw_patches(self._mask, importance, np.take_along_axis(noise, stored_ids, axis=1), self._visible)
        return VisiblePatches(ids=np.take_along_axis(stored_ids, positions, axis=1), positions=positions)

    def _stored_ids(self, samples: SamplesOfStep) -> NDArray[np.int64] | None:
        if not self._subset:
            return None
        ids = self._reader.read("patch_ids", samples.seeds, samples.rows).astype(np.int64)
        wrong = np.flatnonzero((np.diff(ids, axis=1) <= 0).any(axis=1) | (ids[:, -1] >= self._patches))
        if len(wrong):
            row, seed = int(samples.rows[wrong[0]]), int(samples.seeds[wrong[0]])
            raise IntegrityError(
                f"{self._reader.root}: patch_ids of row {row}, seed {seed}, are not ascending numbers below "
                f"{self._patches}: the object is damaged; feature-cache verify --full says what to do"
            )
        return ids

    def _noise(self, samples: SamplesOfStep, patches: int) -> NDArray[np.float64]:
        noise = np.empty((len(samples.rows), patches), dtype=np.float64)
        for epoch in np.unique(samples.epochs):
            inside = np.flatnonzero(samples.epochs == epoch)
            keys = [self._keys[row] for row in samples.rows[inside]]
            noise[inside] = mask_noise(self._run_seed, int(epoch), keys, samples.seeds[inside].tolist(), patches)
        return noise

    def batch(self, samples: SamplesOfStep) -> Batch:
        """Read the input of one step.

        Raises:
            IntegrityError: an object of the cache is missing or damaged; names it.
        """
        visible = self.visible(samples)
        tokens = np.pad(visible.positions + 1, ((0, 0), (1, 0)))
        seeds, rows = samples.seeds, samples.rows
        read = self._reader.read
        moments = self._with_moments
        return Batch(
            visible_pixels=torch.from_numpy(self._pixels.visible_pixels(seeds, rows, visible)),
            visible_ids=torch.from_numpy(np.ascontiguousarray(visible.ids)),
            stored_targets=torch.from_numpy(read("targets", seeds, rows, tokens)),
            tokens=torch.from_numpy(tokens),
            token_mean=torch.from_numpy(read("target_mean", seeds, rows)) if moments else None,
            token_std=torch.from_numpy(read("target_std", seeds, rows)) if moments else None,
        )

    def announce(self, samples: SamplesOfStep) -> None:
        """Tell the kernel which samples ``batch`` will read soon; see ``CacheReader.prefetch``."""
        self._reader.prefetch(self._announced, samples.seeds, samples.rows)
