"""What a run says about its input: nothing when it need not, else the reason and what to change."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lookonce.train.config import TrainingConfig
from lookonce.train.data import input_watch
from lookonce.train.data.input_watch import SILENCE, WINDOW, InputWatch, ReadingCost
from lookonce.train.run import train_student


def watch_of(threads: int = 1, *, replays: bool = False, **cost: Any) -> InputWatch:
    watch = InputWatch(threads, replays=replays)
    assert watch.judge(waited=5, elapsed=5) is None  # the first batch
    watch._cost = ReadingCost(samples=100, **cost)
    return watch


BUSY: dict[str, Any] = {"seconds": 1.0, "cpu_seconds": 0.9}


def test_little_waiting_is_not_worth_a_word() -> None:
    assert watch_of(**BUSY).judge(waited=0.05 * WINDOW, elapsed=WINDOW) is None


@pytest.mark.parametrize(
    ("arguments", "reason", "advice"),
    [
        (
            {"seconds": 1.0, "cpu_seconds": 0.2, "disk_faults": 210},
            r"the disk \(2.1 major page",
            "faster disk",
        ),
        ({"replays": True, **BUSY}, "a thread needs 10.0 ms per sample to decode the images", "--pixels store"),
        (BUSY, "too few threads", r"raise --workers \(1 now, 64 cores\)"),
        ({"threads": 64, **BUSY}, "all 64 cores gather", "fewer levels"),
        ({"seconds": 1.0, "cpu_seconds": 0.2}, "wait for a core", "Give the run more cores"),
    ],
    ids=["disk", "replay", "threads", "cores", "contention"],
)
def test_the_reason_and_what_to_change(
    arguments: dict[str, Any], reason: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    said = watch_of(**arguments).judge(waited=0.2 * WINDOW, elapsed=WINDOW)
    assert said is not None
    assert said.startswith("the student waited for its input 20% of the time")
    for text in (reason, advice):
        assert re.search(text, said), said


def test_said_at_most_once_a_while() -> None:
    watch, said = watch_of(**BUSY), []
    for _ in range(int(SILENCE / WINDOW) + 1):
        for _ in range(4):  # short windows are put together
            said.append(watch.judge(waited=0.2 * WINDOW, elapsed=WINDOW / 4))
        watch._cost = ReadingCost(samples=100, **BUSY)
    assert sum(sentence is not None for sentence in said) == 2


def test_costs_are_measured_in_the_threads_that_read() -> None:
    watch = InputWatch(2)

    def read() -> None:
        with watch.reading(3):
            time.sleep(0.2)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watch._cost.samples == 6
    assert watch._cost.seconds >= 0.4
    assert watch._cost.cpu_seconds < 0.2


def test_a_run_says_what_it_waits_for(
    training_cache: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(input_watch, "WINDOW", 0.0)
    monkeypatch.setattr(input_watch, "LONG_WAIT", -1.0)
    config = TrainingConfig(
        shards=(training_cache(),),
        out=tmp_path / "run",
        student="test_vit",
        layer_weights="top2",
        epochs=2,
        batch_size=4,
        log_steps=1,
        device="cpu",
    )
    train_student(config)
    errors = capsys.readouterr().err
    assert errors.count("note: the student waited for its input") == 1
