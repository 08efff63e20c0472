"""Who gets which shard, and what a lost worker takes with it."""

from __future__ import annotations

import pytest

from lookonce.clusters.extraction.resources import allocate_workers
from lookonce.clusters.extraction.scheduler import MAX_ATTEMPTS, ShardScheduler
from lookonce.extract.config import ExtractionConfig
from lookonce.extract.pipeline.events import ShardCommitted, ViewsDone, WorkLost
from lookonce.extract.pipeline.open_shard import ShardTask
from lookonce.shared.errors import UsageError, WorkerLostError
from lookonce.storage_schemas.receipt import Receipt

VIEWS = 8
"""Of a task: four rows, two seeds."""


def tasks(count):
    return [ShardTask(shard, (0, 3), range(4 * shard, 4 * shard + 4), ()) for shard in range(count)]


def committed(shard, seed):
    return ShardCommitted(
        Receipt(
            fingerprint="",
            encoding="",
            seed=seed,
            shard=shard,
            first_sample=4 * shard,
            samples=4,
            holes=(),
            objects=(),
            statistics={},
            versions={},
        )
    )


def scheduler(count, *workers, ahead=3):
    one = ShardScheduler(tasks(count), ahead)
    for worker in workers:
        one.add_worker(worker)
    return one


def shard(task):
    return None if task is None else task.shard


def test_a_worker_gets_its_next_shard_when_little_of_the_last_is_left():
    one = scheduler(5, "a")
    assert [shard(one.next_task("a")), shard(one.next_task("a"))] == [0, None]
    one.count("a", ViewsDone(views=5, shard=0, seed=0))
    assert one.next_task("a") is None  # 3 views are left
    one.count("a", ViewsDone(views=1, shard=0, seed=3))
    assert [shard(one.next_task("a")), shard(one.next_task("a"))] == [1, None]  # never a third


def test_copied_views_of_the_next_shard_do_not_count_for_the_first():
    one = scheduler(5, "a", ahead=VIEWS + 1)
    assert [shard(one.next_task("a")), shard(one.next_task("a"))] == [0, 1]
    one.count("a", ViewsDone(copied=VIEWS, shard=1, seed=0))
    one.count("a", ViewsDone(views=2, shard=0, seed=3))
    shards, lost = one.requeue("a", "killed")
    assert (shards, lost) == ([0, 1], WorkLost(views=2, copied=VIEWS))


def test_the_last_shards_are_left_to_workers_that_have_none():
    one = scheduler(3, "a", "b", ahead=VIEWS + 1)
    assert [shard(one.next_task("a")), shard(one.next_task("a"))] == [0, 1]
    one = scheduler(2, "a", "b", ahead=VIEWS + 1)
    assert [shard(one.next_task("a")), shard(one.next_task("a")), shard(one.next_task("b"))] == [0, None, 1]


def test_a_task_is_done_with_the_receipt_of_its_last_seed():
    one = scheduler(1, "a")
    one.next_task("a")
    one.count("a", ViewsDone(views=VIEWS, shard=0, seed=0))
    one.count("a", committed(0, 0))
    assert (one.uncommitted, one.exhausted, one.has_tasks("a")) == (1, True, True)
    one.count("a", committed(0, 3))
    assert (one.uncommitted, one.has_tasks("a")) == (0, False)


def test_what_a_lost_worker_had_goes_to_others_but_for_what_it_committed():
    one = scheduler(3, "a", "b", ahead=VIEWS + 1)
    assert [shard(one.next_task("a")), shard(one.next_task("a"))] == [0, 1]
    for seed in (0, 3):
        one.count("a", ViewsDone(views=4, shard=0, seed=seed))
        one.count("a", committed(0, seed))
    one.count("a", ViewsDone(views=3, shard=1, seed=0))
    shards, lost = one.requeue("a", "killed")
    assert (shards, lost) == ([1], WorkLost(views=3, copied=0))
    given = [shard(one.next_task("b")), shard(one.next_task("b"))]
    assert (sorted(given), one.uncommitted) == ([1, 2], 2)


def lose(one, times):
    """Workers that take what they get and are lost."""
    for _ in range(times):
        one.add_worker("lost")
        while one.next_task("lost") is not None:
            pass
        one.requeue("lost", "out of memory")


def test_a_shard_that_loses_every_worker_ends_it_and_the_one_held_beside_it_is_not_blamed():
    one = scheduler(2, ahead=VIEWS + 1)
    lose(one, MAX_ATTEMPTS - 1)  # with both
    one.add_worker("b")
    assert shard(one.next_task("b")) == 0
    for seed in (0, 3):
        one.count("b", committed(0, seed))
    lose(one, MAX_ATTEMPTS - 1)  # with shard 1 alone
    with pytest.raises(WorkerLostError, match=rf"shard 1 lost its worker {MAX_ATTEMPTS} times \(out of memory\)"):
        lose(one, 1)


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "expected"),
    [
        ("auto", 16, 4, (4, 4, 1.0)),
        ("8", 16, 4, (8, 2, 0.5)),
        ("6", 16, 4, (6, 2, 0.5)),
        ("3", 16, 1, (3, 5, 1 / 3)),
        ("2", 16, 4, (2, 8, 1.0)),
        ("auto", 2, 4, (4, 1, 1.0)),
        ("auto", 5, 0, (2, 2, 0.0)),
        ("5", 5, 0, (5, 1, 0.0)),
    ],
)
def test_workers_beyond_the_gpus_share_them(tmp_path, workers, cpus, gpus, expected):
    config = ExtractionConfig(teacher="deit-tiny", images="x", out=tmp_path, workers=workers)
    found = allocate_workers(config, cpus=cpus, gpus=gpus)
    assert (found.workers, found.cpus, found.gpus) == expected


def test_more_workers_than_cpus_are_refused(tmp_path):
    config = ExtractionConfig(teacher="deit-tiny", images="x", out=tmp_path, workers="9")
    with pytest.raises(UsageError, match="--workers 9: the Ray cluster has only 8 CPUs; use at most 8"):
        allocate_workers(config, cpus=8, gpus=1)


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_a_stall_timeout_is_zero_or_above(tmp_path, seconds):
    with pytest.raises(UsageError, match="--stall-timeout"):
        ExtractionConfig(teacher="deit-tiny", images="x", out=tmp_path, stall_timeout=seconds)
