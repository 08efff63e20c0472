"""What is told of the workers while they work, and at the end."""

from __future__ import annotations

import os
import pickle

import pytest

from lookonce.cache.layout import CacheLayout
from lookonce.extract.pipeline.batch_encoder import ThreadTimes
from lookonce.extract.pipeline.pipeline import BatchProgress
from lookonce.extract.progress.worker_table import WorkerTable, efficiency

BUSY = ThreadTimes(decode=1.0, teacher=8.0, write=1.0, forward=6.0)
STARVED = ThreadTimes(decode=9.0, teacher=1.0, write=0.0, forward=0.5)


def test_rows_say_who_waits_for_what():
    table = WorkerTable(show=False)
    for worker, spent in (("node1:11", BUSY), ("node2:22", STARVED), ("node1:11", BUSY)):
        table.update(BatchProgress(views=32, time=spent, worker=worker))
    assert "node1:11" in table.row("node1:11")
    assert "decode  10%  teacher  80%  write  10%" in table.row("node1:11")
    assert "decode  90%  teacher  10%  write   0%" in table.row("node2:22")
    assert table.spent == ThreadTimes(decode=11.0, teacher=17.0, write=2.0, forward=12.5)


def test_efficiency_is_what_the_forward_has_of_the_time():
    assert efficiency(BUSY) == 0.6
    assert efficiency(BUSY + STARVED) == 0.325
    assert efficiency(ThreadTimes()) is None
    assert ThreadTimes().shares() == {}


def test_views_that_a_lost_worker_takes_back_are_no_worker():
    table = WorkerTable(show=False)
    table.update(BatchProgress(views=-32))
    table.update(BatchProgress(copied=32))
    assert table.spent == ThreadTimes()


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_are_drawn_for_several_workers(capfd, workers):
    table = WorkerTable(show=True)
    for number in range(workers):
        table.update(BatchProgress(views=32, time=BUSY, worker=f"node:{number}"))
    table.close()
    printed = capfd.readouterr().err
    assert [f"node:{number}" in printed for number in range(2)] == [workers == 2] * 2


def test_progress_names_its_process_and_keeps_it_on_the_way():
    event = BatchProgress(views=32)
    assert event.worker == f"{os.uname().nodename}:{os.getpid()}"
    assert pickle.loads(pickle.dumps(event)) == event


class FakeCounter:
    """Keeps what is counted, by tag."""

    all: dict[str, dict] = {}  # noqa: RUF012

    def __init__(self, name, description, tag_keys=()):
        self.counted = self.all[name] = {}

    def inc(self, value, tags=None):
        assert value > 0  # Ray refuses others
        key = tuple((tags or {}).values())
        self.counted[key] = self.counted.get(key, 0) + value


def test_ray_gets_counters(make_manifest, fill_cache, tmp_path):
    from lookonce.clusters.extraction.counters import WorkerMetrics

    fill_cache(tmp_path, make_manifest())
    receipt = CacheLayout(tmp_path).load_receipt(0, 0)
    metrics = WorkerMetrics(FakeCounter)
    for event in (BatchProgress(), BatchProgress(views=32, time=BUSY), BatchProgress(copied=8), receipt, receipt):
        metrics.count(event)
    counted = FakeCounter.all
    assert counted["lookonce_views"] == {(): 32}
    assert counted["lookonce_views_copied"] == {(): 8}
    assert counted["lookonce_shards"] == {(): 2}
    assert counted["lookonce_bytes"] == {(): 2 * receipt.content_bytes}
    assert counted["lookonce_lane_seconds"] == {("decode",): 1.0, ("teacher",): 8.0, ("write",): 1.0}
