"""Ray workers: the same bytes as inline, whatever dies or is stopped on the way."""

from __future__ import annotations

import json
import random
import signal
import time
from contextlib import suppress

import psutil
import pytest


def workers(running):
    """Living worker processes that hold an actor of ours."""
    found = []
    for process in running.family():
        with suppress(psutil.NoSuchProcess):
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ExtractionWorker"):
                found.append(process)
    return found


@pytest.mark.parametrize(
    "whole", ["klt1", *(pytest.param(one, marks=pytest.mark.slow) for one in ("int8", "jpeg"))], indirect=True
)
def test_two_workers_write_the_bytes_of_inline_even_when_one_is_killed(
    forks, tiny_arguments, tmp_path, whole, files, receipts
):
    root, (flags, inline) = tmp_path / "cache", whole
    running = forks.start([*tiny_arguments(root, executor="ray", workers=2, view_processes=1, **flags), "--json"])
    running.until(lambda: receipts(root))
    victim = running.until(lambda: workers(running))[0]
    family = running.family()
    victim.kill()
    ended = running.wait()
    assert ended.code == 0, ended.err
    assert "a worker was lost" in ended.err
    result = json.loads(ended.out)
    assert (result["shards_written"], result["views_written"], result["holes"]) == (12, 48, 0)
    assert files(root) == files(inline)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive  # no process of Ray outlives the command


@pytest.mark.slow
def test_sigterm_stops_ray_with_a_sentence(forks, tiny_arguments, extract_tiny, tmp_path, whole_cache, files, receipts):
    stop(signal.SIGTERM, forks, tiny_arguments, extract_tiny, tmp_path / "cache", receipts)
    assert files(tmp_path / "cache") == files(whole_cache)


@pytest.mark.slow
def test_control_c_reaches_all_of_ray_and_stops_it(
    forks, tiny_arguments, extract_tiny, tmp_path, whole_cache, files, receipts
):
    stop(signal.SIGINT, forks, tiny_arguments, extract_tiny, tmp_path / "cache", receipts)
    assert files(tmp_path / "cache") == files(whole_cache)


def stop(number, forks, tiny_arguments, extract_tiny, root, receipts):
    running = forks.start(tiny_arguments(root, executor="ray", workers=1))
    running.until(lambda: receipts(root))
    family = running.family()
    running.interrupt(number, group=number == signal.SIGINT)
    ended = running.wait()
    assert ended.code == 1
    assert "run the same command again to resume" in ended.sentence
    assert 0 < len(receipts(root)) < 12
    assert not list(root.rglob("*.tmp-*"))
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    assert extract_tiny(root).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(10))
def test_the_whole_tree_killed_at_a_random_moment(
    forks, tiny_arguments, extract_tiny, tmp_path, whole_cache, files, receipts, moment
):
    chance = random.Random(moment)
    root = tmp_path / "cache"
    running = forks.start(tiny_arguments(root, executor="ray", workers=2))
    wanted = chance.choice([0, 1, 4, 8])
    running.until(lambda: root.is_dir() and len(receipts(root)) >= wanted)
    time.sleep(chance.uniform(0, 3 if not wanted else 0.1))
    running.kill_tree()
    assert extract_tiny(root, **({"executor": "ray", "workers": 2} if moment == 0 else {})).code == 0
    assert files(root) == files(whole_cache)


@pytest.mark.slow
def test_ray_errors_are_ours(forks, tiny_arguments, tmp_path):
    for changes, code, words in (
        ({"workers": 99}, 2, "--workers 99: the Ray cluster has only"),
        ({"ray_address": "127.0.0.1:1"}, 2, "--ray-address 127.0.0.1:1: no Ray cluster can be joined there"),
        ({"ray_address": "127.0.0.1:x"}, 2, "--ray-address 127.0.0.1:x: no Ray cluster can be joined there"),
    ):
        ended = forks.start(tiny_arguments(tmp_path / "cache", executor="ray", **changes)).wait()
        assert ended.code == code
        assert words in ended.sentence
