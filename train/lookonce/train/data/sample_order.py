"""Which sample of which augmentation seed is seen when: a pure function of (run seed, step)."""

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
"""Part of the stream's name; a change of order is a new version and a note in the changelog."""

BLOCK_ORDER_VERSION = 1
"""The same, of the order within a window of shards."""


@dataclass(frozen=True, kw_only=True)
class ShardWindow:
    """What a block shuffle needs to know: samples are drawn from a few shards at a time, each shard once an epoch."""

    shards: int
    """Shards that are open at a time, at least 1."""
    shard_size: int
    """Samples a shard of the cache."""

    def document(self) -> dict[str, int]:
        """JSON-compatible, with the version of the order."""
        return {"version": BLOCK_ORDER_VERSION, "shards": self.shards, "shard_size": self.shard_size}


@dataclass(frozen=True, kw_only=True)
class SamplesOfStep:
    """The samples of one global batch, in order."""

    step: int
    """0-based."""
    epochs: NDArray[np.int64]
    """0-based epoch of each sample, shape (B,); a batch may lie across the border of two."""
    rows: NDArray[np.int64]
    """Row in the cache, shape (B,)."""
    seeds: NDArray[np.int64]
    """Augmentation seed, shape (B,)."""

    def part(self, part: slice) -> SamplesOfStep:
        """Some of them, of the same step."""
        return SamplesOfStep(step=self.step, epochs=self.epochs[part], rows=self.rows[part], seeds=self.seeds[part])


class SampleOrder:
    """Every sample once an epoch, shuffled anew each epoch; epoch e sees augmentation seed number e modulo seeds.

    The epochs are one endless line cut into batches, so that no sample is dropped; only the very last batch of the
    run may be smaller.

    With a window of w shards, shards are shuffled, and each sample of the shard in place p (0, 1, ...) stands at
    p + w u with a uniform u of its own; samples come in the order of where they stand. So a window slides over the
    shards: at any sample at most w of them are open, one is opened whenever one is done, and none is opened twice
    in an epoch. A window of all shards or more is the global shuffle.

    Args:
        rows: rows that can be trained on, int64 (n,), ascending.
        seeds: augmentation seeds, in the order in which epochs take them.
        run_seed: the run's seed.
        batch_size: samples a step, over all processes.
        epochs: length of the run.
        window: shuffle within a window of shards; None for all samples.

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
            raise UsageError("nothing to train on: the cache has no readable sample for the chosen seeds")
        self.rows, self._seeds = rows, np.asarray(seeds, dtype=np.int64)
        self._run_seed, self.batch_size = run_seed, batch_size
        self.samples_per_epoch = len(rows)
        self._total = epochs * len(rows)
        self.window = window
        self._permutation = lru_cache(maxsize=2)(self._draw)

    @property
    def total_steps(self) -> int:
        """Steps of the run."""
        return -(-self._total // self.batch_size)

    def step(self, step: int) -> SamplesOfStep:
        """The samples of a 0-based step.

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

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        window, samples = self.window, self.samples_per_epoch
        if window is not None:
            shards, shard_of_sample = np.unique(self.rows // window.shard_size, return_inverse=True)
            if window.shards < len(shards):
                purpose = ("block-order", BLOCK_ORDER_VERSION, self._run_seed, epoch)
                places = random_permutation(len(shards), *purpose, "shards")
                stands = places[shard_of_sample] + window.shards * random_uniform(samples, *purpose, "samples")
                return np.argsort(stands, kind="stable").astype(np.int64)
        return random_permutation(samples, "order", ORDER_VERSION, self._run_seed, epoch)


def batch_parts(samples: int, parts: int) -> list[slice]:
    """A global batch cut into consecutive parts of nearly equal size; some are empty where samples are few.

    >>> batch_parts(7, 3)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    borders = [samples * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(borders)]
