"""What a user sees of the workers during an extraction and at the end."""

from __future__ import annotations

import io
import os
import pickle
import re
import sys

import pytest
from rich.console import Console

from lookonce.cache.layout import CacheLayout
from lookonce.extract.pipeline.events import ShardCommitted, ThreadTimes, ViewsDone, WorkerStarted, WorkLost
from lookonce.extract.prepare import remaining_tasks
from lookonce.extract.progress.display import ExtractionProgress
from lookonce.extract.progress.worker_table import WorkerTable, efficiency
from lookonce.shared.sources import Listing, ListingEntry

BUSY = ThreadTimes(decode=1.0, teacher=8.0, write=1.0, forward=6.0)
STARVED = ThreadTimes(decode=9.0, teacher=1.0, write=0.0, forward=0.5)


def done(worker, spent=BUSY, **amounts):
    return ViewsDone(shard=0, seed=0, time=spent, worker=worker, **(amounts or {"views": 32}))


def drawn(table):
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_rows_say_who_waits_for_what():
    table = WorkerTable()
    for worker, spent in (("node1:11", BUSY), ("node2:22", STARVED), ("node1:11", BUSY)):
        table.update(done(worker, spent))
    header, first, second = drawn(table)
    assert header == ["worker", "views/s", "decode", "teacher", "write"]
    assert [first[0], *first[2:]] == ["node1:11", "10%", "80%", "10%"]
    assert [second[0], *second[2:]] == ["node2:22", "90%", "10%", "0%"]
    assert float(first[1]) >= 2 * float(second[1]) * 0.9 > 0
    assert table.spent == ThreadTimes(decode=11.0, teacher=17.0, write=2.0, forward=12.5)


def test_efficiency_is_what_the_forward_has_of_the_time():
    assert efficiency(BUSY) == 0.6
    assert efficiency(BUSY + STARVED) == 0.325
    assert efficiency(ThreadTimes()) is None
    assert ThreadTimes().shares() == {}


def test_copied_views_are_no_work_of_a_worker():
    table = WorkerTable()
    table.update(done("node:1", copied=32))
    assert table.spent == ThreadTimes()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, workers, make_manifest, tmp_path, monkeypatch):
    """What an extraction by some workers, one of which is lost, prints on standard error."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    manifest = make_manifest(samples=64, shard_size=64)
    listing = Listing(tuple(ListingEntry(f"{row:02}.jpg", -1, 9) for row in range(64)), ())
    with ExtractionProgress(remaining_tasks(tmp_path, manifest, (0,), listing), manifest, show=True) as progress:
        for number in range(workers):
            progress.update(done(f"node:{number}"))
        progress.update(WorkLost(views=32, copied=0))
        print("a worker was lost", file=sys.stderr)
        progress.update(done("node:0"))
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_terminal_shows_a_row_per_worker_if_there_are_several(workers, make_manifest, tmp_path, monkeypatch):
    printed = shown(Terminal(), workers, make_manifest, tmp_path, monkeypatch)
    assert [f"node:{number}" in printed for number in range(2)] == [workers == 2] * 2
    assert f"{32 * workers}/64" in printed  # the lost views are taken back
    assert "teacher 80%" in printed
    assert "a worker was lost\n" in printed.replace("\r", "\n")


def test_a_log_file_gets_lines_without_rows(make_manifest, tmp_path, monkeypatch):
    printed = shown(io.StringIO(), 2, make_manifest, tmp_path, monkeypatch)
    assert "node:" not in printed
    assert "64/64" in printed
    assert "\x1b" not in printed


def test_events_name_their_process_and_keep_the_name_on_the_way():
    here = f"{os.uname().nodename}:{os.getpid()}"
    for event in (ViewsDone(shard=0, seed=0, views=32), WorkerStarted()):
        assert event.worker == here
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
    committed = ShardCommitted(receipt)
    for event in (done("node:1"), ViewsDone(shard=0, seed=0, copied=8), committed, committed):
        metrics.count(event)
    counted = FakeCounter.all
    assert counted["lookonce_views"] == {(): 32}
    assert counted["lookonce_views_copied"] == {(): 8}
    assert counted["lookonce_shards"] == {(): 2}
    assert counted["lookonce_bytes"] == {(): 2 * receipt.content_bytes}
    assert counted["lookonce_lane_seconds"] == {("decode",): 1.0, ("teacher",): 8.0, ("write",): 1.0}
