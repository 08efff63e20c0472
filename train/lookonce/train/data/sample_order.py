"""The samples and augmentation seeds of each step: a pure function of (run seed, step)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.errors import UsageError
from lookonce.shared.randomness import random_permutation, random_uniform

ORDER_VERSION = 1
"""Part of the random stream's name; another order needs a new version and a note in the changelog."""

BLOCK_ORDER_VERSION = 1
"""Version of the order within a window of shards."""


@dataclass(frozen=True, kw_only=True)
class ShardWindow:
    """The window of a block shuffle, which draws from a few shards at a time and opens each shard once per epoch."""

    shards: int
    """Shards open at a time, at least 1."""
    shard_size: int
    """Samples per shard of the cache."""

    def document(self) -> dict[str, int]:
        """JSON-compatible, with the version of the order."""
        return {"version": BLOCK_ORDER_VERSION, "shards": self.shards, "shard_size": self.shard_size}


@dataclass(frozen=True, kw_only=True)
class SamplesOfStep:
    """The samples of one global batch, in order."""

    step: int
    """0-based."""
    epochs: NDArray[np.int64]
    """0-based epoch of each sample, shape (B,); a batch may cross the border of two epochs."""
    rows: NDArray[np.int64]
    """Row in the cache, shape (B,)."""
    seeds: NDArray[np.int64]
    """Augmentation seed, shape (B,)."""

    def part(self, part: slice) -> SamplesOfStep:
        """A part of the samples."""
        return SamplesOfStep(step=self.step, epochs=self.epochs[part], rows=self.rows[part], seeds=self.seeds[part])


class SampleOrder:
    """Every sample once per epoch, in a new order; epoch e uses augmentation seed number e modulo the number of seeds.

    Batches are cut from the concatenated epochs, so no sample is dropped; only the last batch of the run may be
    smaller.

    A block shuffle with a window of w shards shuffles the shards, and gives each sample of the shard in place p (0,
    1, ...) the sort key p + w u, with u uniform in [0, 1). So at most w shards are open at any sample, one opens when
    one is done, and none opens twice in an epoch. A window of all shards or more is the global shuffle.

    Args:
        rows: rows of the samples, int64 (n,), ascending.
        seeds: augmentation seeds, in the order of epochs.
        run_seed: the run's seed.
        batch_size: samples per step, over all processes.
        epochs: length of the run.
        window: window of a block shuffle; None shuffles over all samples.

    Raises:
        UsageError: there are no rows or no seeds.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        seeds: Sequence[int],
        *,
        run_seed: int,
        batch_size: int,
        epochs: int,
        window: ShardWindow | None = None,
    ) -> None:
        if not len(rows) or not seeds:
            raise UsageError(
                "nothing to train on: the cache has no readable sample for these seeds; give others with --seeds"
            )
        self.rows, self._seeds = rows, np.asarray(seeds, dtype=np.int64)
        self._run_seed, self.batch_size = run_seed, batch_size
        self.samples_per_epoch = len(rows)
        self.epochs, self._total = epochs, epochs * len(rows)
        self.window = window
        self._permutation = lru_cache(maxsize=2)(self._draw)

    @property
    def total_steps(self) -> int:
        """Steps of the run."""
        return -(-self._total // self.batch_size)

    def step(self, step: int) -> SamplesOfStep:
        """Samples of a 0-based step.

        Raises:
            IndexError: the run has no such step.
        """
        if not 0 <= step < self.total_steps:
            raise IndexError(f"step {step} of {self.total_steps}")
        places = np.arange(step * self.batch_size, min((step + 1) * self.batch_size, self._total))
        epochs, positions = np.divmod(places, self.samples_per_epoch)
        rows = np.empty_like(places)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            rows[inside] = self.rows[self._permutation(int(epoch))[positions[inside]]]
        return SamplesOfStep(step=step, epochs=epochs, rows=rows, seeds=self._seeds[epochs % len(self._seeds)])

    def epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and step of each sample of a 0-based epoch, in order, two int64 (n,)."""
        places = np.arange(epoch * self.samples_per_epoch, (epoch + 1) * self.samples_per_epoch)
        return self.rows[self._permutation(epoch)], places // self.batch_size

    def seed_of(self, epoch: int) -> int:
        """Augmentation seed of a 0-based epoch."""
        return int(self._seeds[epoch % len(self._seeds)])

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        window, samples = self.window, self.samples_per_epoch
        if window is not None:
            shards, shard_of_sample = np.unique(self.rows // window.shard_size, return_inverse=True)
            if window.shards < len(shards):
                purpose = ("block-order", BLOCK_ORDER_VERSION, self._run_seed, epoch)
                places = random_permutation(len(shards), *purpose, "shards")
                sort_keys = places[shard_of_sample] + window.shards * random_uniform(samples, *purpose, "samples")
                return np.argsort(sort_keys, kind="stable").astype(np.int64)
        return random_permutation(samples, "order", ORDER_VERSION, self._run_seed, epoch)


def batch_parts(samples: int, parts: int) -> list[slice]:
    """Split a global batch into consecutive parts of nearly equal size; some are empty if there are few samples.

    >>> batch_parts(7, 3)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    borders = [samples * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(borders)]
