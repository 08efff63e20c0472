"""Over an epoch every (sample, seed) is trained on once, whatever the processes, threads and shuffle, in one order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookonce.train.config import TrainingConfig
from lookonce.train.data.batch import Batch
from lookonce.train.data.prefetch import prefetched_batches
from lookonce.train.distributed.world import World
from lookonce.train.setup import TrainingSetup, set_up

SEEDS = (0, 3)
EPOCHS = 4


def telling_pixels(manifest: Any, seed: int) -> dict[str, Any]:
    """Views that say which they are: all bytes of a view are its row, but for the first of a patch, the seed."""
    shape = (manifest.samples, manifest.recipe.patches, manifest.recipe.patch_size**2 * 3)
    pixels = np.broadcast_to(np.arange(manifest.samples, dtype=np.uint8)[:, None, None], shape).copy()
    pixels[..., 0] = seed
    return {"pixels": pixels}


def trained_on(setup: TrainingSetup, world: World, passes: int, threads: int) -> list[list[tuple[int, int]]]:
    """(row, seed) of the samples that count in each pass of a process, in order."""
    parts, mine = world.parts(passes)
    batches = prefetched_batches(
        setup.input.batches,
        setup.input.order,
        first=0,
        last=setup.input.order.total_steps,
        threads=threads,
        parts=parts,
        mine=mine,
    )
    return [told(batch) if batch.share else [] for batch in batches]


def told(batch: Batch) -> list[tuple[int, int]]:
    return [(int(view[0, 1]), int(view[0, 0])) for view in batch.visible_pixels]


@pytest.fixture
def setup(training_cache: Callable[..., Path], tmp_path: Path, request: pytest.FixtureRequest) -> TrainingSetup:
    cache = training_cache(seeds=SEEDS, holes=(2, 7), make_arrays=telling_pixels)  # 9 samples, the last step has 1
    shuffle = {"shuffle": "block", "shuffle_shards": 2} if request.param == "block" else {"shuffle": request.param}
    config = TrainingConfig(
        shards=(cache,),
        out=tmp_path / "run",
        student="test_vit",
        layer_weights="top2",
        epochs=EPOCHS,
        batch_size=5,
        device="cpu",
        **shuffle,
    )
    return set_up(config)


@pytest.mark.parametrize("setup", ["global", "block"], indirect=True)
@pytest.mark.parametrize("threads", [0, 1, 4])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_each_sample_and_seed_once(setup: TrainingSetup, size: int, threads: int) -> None:
    passes = 2 if size == 3 else 1
    processes = [trained_on(setup, World(rank=rank, size=size), passes, threads) for rank in range(size)]
    line = []
    for step in range(setup.input.order.total_steps):
        here = [part for process in processes for part in process[step * passes : (step + 1) * passes]]
        sizes = [len(part) for part in here]
        assert max(sizes) - min(sizes) <= 1
        line += [sample for part in here for sample in part]
        wanted = setup.input.order.step(step)
        assert line[-len(wanted.rows) :] == list(zip(wanted.rows.tolist(), wanted.seeds.tolist(), strict=True))
    rows = [0, 1, 3, 4, 5, 6, 8, 9, 10]
    assert len(line) == EPOCHS * len(rows)
    for epoch in range(EPOCHS):
        seen = sorted(line[epoch * len(rows) : (epoch + 1) * len(rows)])
        assert seen == [(row, SEEDS[epoch % len(SEEDS)]) for row in rows]
