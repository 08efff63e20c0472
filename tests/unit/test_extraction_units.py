"""Parts of stage one that need no teacher."""

from __future__ import annotations

import pickle

import pytest

from lookonce.cache.layout import CacheLayout
from lookonce.extract.pipeline.events import ShardCommitted, ViewsDone, WorkLost
from lookonce.extract.prepare import SEEDS_PER_TASK, remaining_tasks
from lookonce.extract.progress.display import ExtractionProgress
from lookonce.shared.errors import AccessError
from lookonce.shared.sources import Listing, ListingEntry


@pytest.fixture
def manifest(make_manifest):
    return make_manifest(samples=5, shard_size=2)


@pytest.fixture
def listing():
    return Listing(tuple(ListingEntry(f"{row}.jpg", -1, 9) for row in range(5)), ())


def test_many_seeds_are_extracted_in_groups(manifest, listing, tmp_path):
    """All at once would open nine files a seed and hold every seed's views of a batch."""
    seeds = tuple(range(2 * SEEDS_PER_TASK + 1))
    tasks = remaining_tasks(tmp_path, manifest, seeds, listing)
    assert [len(task.seeds) for task in tasks] == [SEEDS_PER_TASK, SEEDS_PER_TASK, 1] * 3
    pairs = [(seed, task.shard) for task in tasks for seed in task.seeds]
    assert sorted(pairs) == [(seed, shard) for seed in seeds for shard in range(3)]
    assert [entry.key for entry in tasks[-1].entries] == ["4.jpg"]


def test_a_shard_that_was_written_twice_counts_once(manifest, listing, fill_cache, tmp_path):
    fill_cache(tmp_path / "cache", manifest, holes=(0,))
    receipt = CacheLayout(tmp_path / "cache").load_receipt(0, 0)
    with ExtractionProgress(
        remaining_tasks(tmp_path / "new", manifest, (0,), listing), manifest, show=False
    ) as progress:
        progress.update(ViewsDone(shard=0, seed=0, views=2))
        progress.update(ShardCommitted(receipt))
        progress.update(WorkLost(views=2, copied=0))
        progress.update(ViewsDone(shard=0, seed=0, views=2))
        progress.update(ShardCommitted(receipt))
    assert (progress.views, progress.shards_written, progress.views_written) == (2, 1, 1)


def test_what_workers_return_is_small(manifest, fill_cache, tmp_path):
    """Features go to disk from the worker; through Ray's object store go these two, and nothing else."""
    fill_cache(tmp_path / "cache", manifest)
    receipt = CacheLayout(tmp_path / "cache").load_receipt(0, 0)
    assert len(pickle.dumps(ShardCommitted(receipt))) < 10_000
    assert len(pickle.dumps(ViewsDone(shard=0, seed=0, views=32))) < 1_000


def test_ray_takes_a_task_apart_and_puts_it_together(manifest, listing, tmp_path):
    from ray import cloudpickle

    (task, *_) = remaining_tasks(tmp_path, manifest, (0,), listing)
    there = cloudpickle.loads(cloudpickle.dumps(task))  # pyright: ignore[reportPrivateImportUsage]
    assert (there.rows, list(there.entries)) == (task.rows, list(task.entries))


@pytest.mark.parametrize("name", ["receipts/seed-0000/shard-00001.json", "seed-0000/targets/c/1/0/0/0"])
def test_what_cannot_be_read_for_now_is_not_taken_for_lost(manifest, listing, fill_cache, tmp_path, name):
    """A disk that fails or a permission that is missing, here a link to itself: the receipt may be sound, and stays."""
    fill_cache(tmp_path, manifest)
    receipt = tmp_path / "receipts/seed-0000/shard-00001.json"
    (tmp_path / name).rename(tmp_path / "kept")
    (tmp_path / name).symlink_to(tmp_path / name)
    with pytest.raises(AccessError, match="Too many levels of symbolic links"):
        remaining_tasks(tmp_path, manifest, (0,), listing)
    (tmp_path / name).unlink()
    (tmp_path / "kept").rename(tmp_path / name)
    assert receipt.is_file()
    assert remaining_tasks(tmp_path, manifest, (0,), listing) == []
