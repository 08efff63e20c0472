"""Receipts make an extraction resumable, whatever ended it."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time

import psutil
import pytest


@pytest.fixture
def cache(whole_cache, tmp_path):
    return shutil.copytree(whole_cache, tmp_path / "cache")


def test_all_is_there_and_nothing_is_touched(extract_tiny, cache, times):
    before = times(cache)
    ended = extract_tiny(cache)
    assert ended.code == 0
    assert "nothing to do: the cache has all 12 shards" in ended.out
    assert times(cache) == before


def test_only_the_new_seeds_run(extract_tiny, tmp_path, whole, files, times):
    root, (flags, uninterrupted) = tmp_path / "cache", whole
    assert extract_tiny(root, **flags, seeds="0").code == 0
    before = times(root)
    ended = extract_tiny(root, **flags)
    assert ended.code == 0
    assert "6 of 12 shards written, 24 views" in ended.out
    after = times(root)
    assert {name: after[name] for name in before} == before
    assert files(root) == files(uninterrupted)


def test_only_damaged_shards_are_written_again(extract_tiny, tmp_path, whole, files, times):
    flags, uninterrupted = whole
    cache = shutil.copytree(uninterrupted, tmp_path / "cache")
    receipts = {shard: cache / f"receipts/seed-0001/shard-{shard:05d}.json" for shard in range(5)}
    documents = {shard: json.loads(path.read_text()) for shard, path in receipts.items()}
    targets = {
        shard: cache / next(item["path"] for item in document["objects"] if item["array"] == "targets")
        for shard, document in documents.items()
    }
    targets[0].unlink()
    targets[1].write_bytes(targets[1].read_bytes()[:-1])
    receipts[2].unlink()
    receipts[3].write_text(json.dumps({**documents[3], "objects": documents[3]["objects"][:1]}))  # vouches for little
    receipts[4].write_text('{"schema": ')
    before = times(cache)
    ended = extract_tiny(cache, **flags)
    assert ended.code == 0
    assert "5 of 12 shards written, 20 views" in ended.out
    changed = {name for name, when in times(cache).items() if before.get(name) != when}
    objects = {item["path"] for document in documents.values() for item in document["objects"]}
    assert changed == objects | {str(path.relative_to(cache)) for path in receipts.values()}
    assert files(cache) == files(uninterrupted)


def kill_and_resume(forks, tiny_arguments, extract_tiny, root, ready, pause, **changes):
    running = forks.start(tiny_arguments(root, **changes))
    running.until(ready)
    time.sleep(pause)
    running.kill_tree()
    ended = extract_tiny(root, **changes)
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("moment", [pytest.param(m, marks=[pytest.mark.slow] if m else []) for m in range(10)])
def test_killed_at_a_random_moment(forks, tiny_arguments, extract_tiny, tmp_path, whole, files, receipts, moment):
    chance = random.Random(moment)
    root, (flags, uninterrupted) = tmp_path / "cache", whole
    wanted = chance.choice([0, 1, 3, 5, 7, 9, 11])
    kill_and_resume(
        forks,
        tiny_arguments,
        extract_tiny,
        root,
        lambda: root.is_dir() and len(receipts(root)) >= wanted,
        chance.uniform(0, 0.1),
        **flags,
    )
    assert files(root) == files(uninterrupted)  # and with it: no temporary files


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])  # one handler
def test_a_stop_that_is_asked_for(forks, tiny_arguments, extract_tiny, tmp_path, whole_cache, files, receipts, number):
    root = tmp_path / "cache"
    running = forks.start(tiny_arguments(root))
    running.until(lambda: len(receipts(root)) >= 3)
    running.interrupt(number)
    ended = running.wait()
    assert ended.code == 1
    assert "run the same command again to resume" in ended.sentence
    assert ended.out == ""
    left = files(root)
    assert not any(".tmp-" in name for name in left)
    assert 3 <= len(receipts(root)) < 12
    assert extract_tiny(root).code == 0
    assert files(root) == files(whole_cache)


@pytest.mark.parametrize(
    "whole", ["jpeg", *(pytest.param(one, marks=pytest.mark.slow) for one in ("int8", "klt1"))], indirect=True
)
def test_view_processes_end_with_the_command_whatever_ends_it(
    forks, tiny_arguments, extract_tiny, tmp_path, whole, files, receipts
):
    """Each time another number of processes continues."""
    root, (flags, uninterrupted) = tmp_path / "cache", whole
    for end in ("no memory", "Ctrl-C", "kill"):
        before = len(receipts(root)) if root.is_dir() else 0
        running = forks.start(tiny_arguments(root, view_processes=2, **flags))
        running.until(lambda before=before: root.is_dir() and len(receipts(root)) > before)
        command, *children = running.family()
        command.suspend()  # or it might be quicker than this test
        assert children
        if end == "kill":
            command.kill()
        elif end == "Ctrl-C":
            running.interrupt(signal.SIGINT, group=True)
        else:
            for child in children:
                child.kill()
        command.resume()
        ended = running.wait()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
        if end == "Ctrl-C":
            assert "run the same command again to resume" in ended.sentence
        if end == "no memory":
            assert "error: a view process was killed by SIGKILL, which happens if memory is short" in ended.sentence
            assert "give fewer --view-processes" in ended.sentence
        assert before < len(receipts(root)) < 12
    assert extract_tiny(root, **flags).code == 0
    assert files(root) == files(uninterrupted)


def test_two_drivers_on_one_cache(forks, tiny_arguments, tmp_path, whole_cache, files, receipts):
    root = tmp_path / "cache"
    first = forks.start(tiny_arguments(root))
    first.until(lambda: receipts(root))
    first.family()[0].suspend()
    second = forks.start(tiny_arguments(root)).wait()
    first.family()[0].resume()
    assert second.code == 1
    assert "another extraction is writing to this cache" in second.sentence
    assert first.wait().code == 0
    assert files(root) == files(whole_cache)
