"""Reads the input of a forward pass: draws masks from stored importance, gathers visible pixels and targets."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookonce.cache.read.reader import CacheReader
from lookonce.shared.errors import CacheMismatchError, IntegrityError
from lookonce.shared.masking import draw_patches, mask_noise, visible_count
from lookonce.storage_schemas.arrays import target_shape
from lookonce.storage_schemas.precision import get_precision
from lookonce.train.data.batch import Batch, StoredTargets
from lookonce.train.data.caches.joined_caches import JoinedCaches
from lookonce.train.data.host_memory import HostMemory
from lookonce.train.data.mask_choice import VisiblePatches
from lookonce.train.data.sample_order import SamplesOfStep
from lookonce.train.data.stochastic_depth import branch_scales
from lookonce.train.data.target_norm import LevelStatistics, level_statistics
from lookonce.train.names import TargetNorm


def _target_arrays(reader: CacheReader) -> list[str]:
    manifest = reader.manifest
    return [array.name for array in get_precision(manifest.encoding.precision).arrays(target_shape(manifest.recipe))]


class PixelSource(Protocol):
    """Source of visible patches; thread-safe."""

    arrays: tuple[str, ...]
    """Arrays of the cache that it reads for every view."""

    def visible_pixels(
        self, seeds: NDArray[np.int64], rows: NDArray[np.int64], visible: VisiblePatches, out: NDArray[np.uint8]
    ) -> None:
        """Fill ``out``, uint8 (B, k, patch bytes), with the visible patches of the views (row, seed)."""
        ...


class StoredPixels:
    """Patches that the cache stores."""

    arrays: tuple[str, ...] = ("pixels",)

    def __init__(self, reader: CacheReader) -> None:
        self._reader = reader

    def visible_pixels(
        self, seeds: NDArray[np.int64], rows: NDArray[np.int64], visible: VisiblePatches, out: NDArray[np.uint8]
    ) -> None:
        """Gather them from the ``pixels`` array."""
        self._reader.read("pixels", seeds, rows, visible.positions, out=out)


class BatchReader:
    """Reads batches; thread-safe. A batch is a pure function of its samples.

    Args:
        caches: the open caches, one per teacher.
        pixels: source of visible patches.
        mask: kind of mask (see ``shared.masking``).
        mask_ratio: share of hidden patches; see ``choose_masks`` for the masks that a cache allows.
        run_seed: seed of masks and stochastic depth.
        target_norm: decides which of the tokens' moments are read.
        drop_path: stochastic depth of the last student block, 0 up to 1.
        student_depth: blocks of the student; unused without stochastic depth.
        memory: memory for batches; None for ordinary memory.
    """

    def __init__(
        self,
        caches: JoinedCaches,
        pixels: PixelSource,
        *,
        mask: str,
        mask_ratio: float,
        run_seed: int,
        target_norm: TargetNorm = "whiten",
        drop_path: float = 0.0,
        student_depth: int = 0,
        memory: HostMemory | None = None,
    ) -> None:
        self._caches, self._pixels = caches, pixels
        self._mask, self._run_seed, self._target_norm = mask, run_seed, target_norm
        self._drop_path, self._student_depth = drop_path, student_depth
        self._memory = memory or HostMemory()
        self._patches = caches.first.manifest.recipe.patches
        self._patch_bytes = caches.first.manifest.recipe.patch_size**2 * 3
        self._visible = visible_count(self._patches, mask_ratio)
        moments = () if target_norm == "whiten" else ("target_mean", "target_std")
        self._announced = [
            (*_target_arrays(reader), *moments, *(pixels.arrays if number == 0 else ()))
            for number, reader in enumerate(caches.readers)
        ]
        self.arrays = [(*names, *self._small_arrays(number)) for number, names in enumerate(self._announced)]
        """Names of the arrays of each cache that batches are read from."""

    def _small_arrays(self, number: int) -> list[str]:
        """Arrays that are read with every batch, and not announced."""
        manifest, names = self._caches.readers[number].manifest, []
        if number == 0 and self._visible != manifest.recipe.stored_patches:
            names.append("importance")
        if not manifest.recipe.tokens.keeps_all:
            names.append("patch_ids")
        if len(self._caches.readers) > 1 or (number == 0 and not isinstance(self._pixels, StoredPixels)):
            names.append("pixel_digest")
        return names

    @property
    def caches(self) -> JoinedCaches:
        """The open caches."""
        return self._caches

    def visible(self, samples: SamplesOfStep) -> VisiblePatches:
        """Visible patches of each sample, drawn from the stored ones by (run seed, epoch, key, augmentation seed)."""
        reader = self._caches.first
        stored_ids = self._stored_ids(0, samples)
        stored = reader.manifest.recipe.stored_patches
        if self._visible == stored:  # every stored patch is visible: nothing to draw
            everything = np.broadcast_to(np.arange(stored), (len(samples.rows), stored))
            return VisiblePatches(ids=everything if stored_ids is None else stored_ids, positions=everything)
        importance = reader.read("importance", samples.seeds, samples.rows)
        noise = self._noise(samples)
        if stored_ids is None:
            ids = draw_patches(self._mask, importance, noise, self._visible)
            return VisiblePatches(ids=ids, positions=ids)
        importance = np.take_along_axis(importance, stored_ids, axis=1)
        positions = draw_patches(self._mask, importance, np.take_along_axis(noise, stored_ids, axis=1), self._visible)
        return VisiblePatches(ids=np.take_along_axis(stored_ids, positions, axis=1), positions=positions)

    def batch(self, samples: SamplesOfStep, part: slice = slice(None)) -> Batch:
        """Read the input of one forward pass.

        Args:
            samples: all samples of a step.
            part: samples of this pass; an empty part gives the first sample with a share of 0, because every process
                takes part in each step.

        Raises:
            IntegrityError: an object of a cache is missing or damaged; the message names it.
            CacheMismatchError: the caches were made from different pixels.
        """
        count = len(range(*part.indices(len(samples.rows))))
        part = part if count else slice(0, 1)
        here = samples.part(part)
        self._caches.require_same_pixels(here.seeds, here.rows)
        visible = self.visible(here)
        pixels = self._memory.empty((*visible.ids.shape, self._patch_bytes), np.dtype(np.uint8))
        self._pixels.visible_pixels(here.seeds, here.rows, visible, pixels.numpy())
        return Batch(
            visible_pixels=pixels,
            visible_ids=self._memory.tensor(visible.ids),
            targets=tuple(self._targets(number, samples, part, visible) for number in range(len(self._caches.readers))),
            branch_scales=self._branch_scales(samples, part),
            share=count / len(samples.rows),
        )

    def announce(self, samples: SamplesOfStep) -> None:
        """Announce to the kernel what ``batch`` will read soon; see ``CacheReader.prefetch``."""
        for number, reader in enumerate(self._caches.readers):
            names = self._announced[number]
            reader.prefetch(names, samples.seeds, self._caches.rows_in(number, samples.rows))

    def keys(self, samples: SamplesOfStep) -> list[str]:
        """Key of each sample."""
        return self._caches.keys.of(samples.rows, samples.seeds)

    def names(self, samples: SamplesOfStep) -> list[str]:
        """Name of each sample for messages: ``'a/b.jpg', seed 3 (CACHE)``."""
        pairs = zip(self.keys(samples), samples.seeds.tolist(), strict=True)
        return [f"{key!r}, seed {seed} ({self._caches.first.place})" for key, seed in pairs]

    def _targets(self, number: int, samples: SamplesOfStep, part: slice, visible: VisiblePatches) -> StoredTargets:
        reader, here = self._caches.readers[number], samples.part(part)
        seeds, rows = here.seeds, self._caches.rows_in(number, here.rows)
        positions = visible.positions if number == 0 else self._positions(number, here, visible.ids)
        tokens = np.pad(positions + 1, ((0, 0), (1, 0)))
        if reader.manifest.encoding.codes_views:
            encoded = StoredTargets(
                elements=self._gathered(reader, "targets", seeds, rows, positions),
                class_elements=self._gathered(reader, "class_targets", seeds, rows),
                coarse=self._gathered(reader, "coarse_targets", seeds, rows),
                positions=self._memory.tensor(positions),
            )
        else:
            encoded = StoredTargets(elements=self._gathered(reader, "targets", seeds, rows, tokens))
        if self._target_norm == "whiten":
            return encoded
        mean, std = (self._gathered(reader, name, seeds, rows, tokens) for name in ("target_mean", "target_std"))
        return replace(
            encoded,
            token_mean=mean,
            token_std=std,
            statistics=self._statistics(number, samples) if self._target_norm == "bn" else None,
        )

    def _gathered(
        self,
        reader: CacheReader,
        name: str,
        seeds: NDArray[np.int64],
        rows: NDArray[np.int64],
        tokens: NDArray[np.int64] | None = None,
    ) -> Tensor:
        spec = reader.manifest.array(name)
        picked = spec.sample_shape if tokens is None else (tokens.shape[1], *spec.sample_shape[1:])
        gathered = self._memory.empty((len(rows), *picked), spec.numpy_dtype)
        reader.read(name, seeds, rows, tokens, out=gathered.numpy())
        return gathered

    def _statistics(self, number: int, samples: SamplesOfStep) -> LevelStatistics:
        """Moments over the global batch, also if only a part of it is read here: 8 bytes per token and layer."""
        reader, rows = self._caches.readers[number], self._caches.rows_in(number, samples.rows)
        mean, std = (
            torch.from_numpy(reader.read(name, samples.seeds, rows)).double() for name in ("target_mean", "target_std")
        )
        moments = level_statistics(mean, std, reader.manifest.recipe.teacher.width)
        return LevelStatistics(mean=moments.mean.float(), variance=moments.variance.float())

    def _positions(self, number: int, samples: SamplesOfStep, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of the visible patches among those that another cache stores."""
        stored = self._stored_ids(number, samples)
        if stored is None:
            return ids
        equal = stored[:, None, :] == ids[:, :, None]
        if not equal.any(axis=2).all():
            reader = self._caches.readers[number]
            row, patch = (int(value) for value in np.argwhere(~equal.any(axis=2))[0])
            here = samples.part(slice(row, row + 1))
            raise CacheMismatchError(
                f"{reader.place}: patch {int(ids[row, patch])} of {self.keys(here)[0]!r}, seed "
                f"{int(samples.seeds[row])}, is visible to the student but not stored in this cache; give a "
                "cache of all tokens, or name this one first in --shards: masks are drawn inside the first one"
            )
        return np.asarray(equal.argmax(axis=2), dtype=np.int64)

    def _stored_ids(self, number: int, samples: SamplesOfStep) -> NDArray[np.int64] | None:
        reader = self._caches.readers[number]
        if reader.manifest.recipe.tokens.keeps_all:
            return None
        rows = self._caches.rows_in(number, samples.rows)
        ids = reader.read("patch_ids", samples.seeds, rows).astype(np.int64)
        wrong = np.flatnonzero((np.diff(ids, axis=1) <= 0).any(axis=1) | (ids[:, -1] >= self._patches))
        if len(wrong):
            row, seed = int(rows[wrong[0]]), int(samples.seeds[wrong[0]])
            raise IntegrityError(
                f"{reader.place}: patch_ids of row {row}, seed {seed}, are not ascending numbers below "
                f"{self._patches}: the object is damaged; run feature-cache verify --full for the next steps"
            )
        return ids

    def _noise(self, samples: SamplesOfStep) -> NDArray[np.float64]:
        noise = np.empty((len(samples.rows), self._patches), dtype=np.float64)
        for epoch in np.unique(samples.epochs):
            inside = np.flatnonzero(samples.epochs == epoch)
            keys = self._caches.keys.of(samples.rows[inside], samples.seeds[inside])
            noise[inside] = mask_noise(self._run_seed, int(epoch), keys, samples.seeds[inside].tolist(), self._patches)
        return noise

    def _branch_scales(self, samples: SamplesOfStep, part: slice) -> Tensor | None:
        if not self._drop_path:
            return None
        return self._memory.tensor(
            branch_scales(
                self._drop_path,
                depth=self._student_depth,
                run_seed=self._run_seed,
                step=samples.step,
                samples=len(samples.rows),
                part=part,
            )
        )
