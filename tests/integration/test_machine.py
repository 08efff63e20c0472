"""A machine that lacks something says so in one sentence with the way out, and no wait outlives a signal by long."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TINY = ["--student=test_vit", "--layer-weights=top2", "--epochs=2", "--batch-size=4", "--device=cpu", "--log-steps=1"]
SOON = 60.0
"""Seconds, on a machine that is busy with other tests; the waits that are cut short last 10 minutes or for ever."""


@pytest.fixture
def taken() -> Iterator[str]:
    """A port that another program has."""
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        yield str(other.getsockname()[1])


@pytest.fixture
def train(forks: Any, training_cache: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """Start a tiny training."""

    def start(*flags: str, memory_bytes: int = 0, **environment: str) -> Any:
        arguments = ["--shards", training_cache(), "--out", tmp_path / "run", *TINY, *flags]
        return forks.start(arguments, command="train-student", memory_bytes=memory_bytes, **environment)

    return start


def is_the_machines(sentence: str, *parts: str) -> None:
    for part in parts:
        assert part in sentence, sentence
    assert "bug" not in sentence


def test_memory_in_training(train: Callable[..., Any]) -> None:
    ended = train("--student=vit_large_patch16_224", memory_bytes=400 << 20).wait()
    assert ended.code == 1
    is_the_machines(ended.sentence, "too little memory", "--accumulate 4", "--activation-checkpointing", "--batch-size")


def test_memory_in_extraction(forks: Any, tiny_arguments: Callable[..., list[Any]], tmp_path: Path) -> None:
    arguments = tiny_arguments(tmp_path / "cache", view_size=512, batch_size=24, calibration_views=24)  # 4096 tokens
    ended = forks.start(arguments, memory_bytes=700 << 20).wait()
    assert ended.code == 1
    is_the_machines(ended.sentence, "too little memory", "smaller --batch-size")


@pytest.mark.slow
def test_no_compiler(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    """In a process of its own: torch's compiler does not work in a fork of one that has run torch."""
    program = "from lookonce.commands.train_student import main; main()"
    arguments = [f"--shards={training_cache()}", f"--out={tmp_path / 'run'}", *TINY, "--compile"]
    without = {**os.environ, "CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    ended = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=without)
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert (ended.returncode, len(errors)) == (1, 1), ended.stderr
    is_the_machines(errors[0], "could not be compiled on this machine", "install g++", "leave --compile out")


def test_a_taken_port(train: Callable[..., Any], taken: str) -> None:
    ended = train(WORLD_SIZE="2", RANK="0", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=taken).wait()
    assert ended.code == 1
    is_the_machines(ended.sentence, "the port is taken", f"127.0.0.1:{taken}", "--master-port")


def test_an_address_that_nobody_knows(train: Callable[..., Any]) -> None:
    place = {
        "WORLD_SIZE": "2",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "no-such.invalid",
        "MASTER_PORT": "29500",
    }
    ended = train(**place).wait()
    assert ended.code == 2
    is_the_machines(ended.sentence, "MASTER_ADDR=no-such.invalid: this host name does not resolve", "--master-addr")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])  # one handler
def test_a_signal_ends_the_wait_for_other_processes(train: Callable[..., Any], number: signal.Signals) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = train(WORLD_SIZE="2", RANK="0", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)

    def waits() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", int(port))) == 0

    running.until(waits)
    signalled = time.monotonic()
    running.interrupt(number)
    ended = running.wait()
    assert time.monotonic() - signalled < SOON
    assert ended.code == 1
    assert ended.sentence.startswith("error: stopped; what was committed stays valid")


def test_a_signal_ends_a_run_whose_other_process_hangs(
    start_processes: Callable[..., list[Any]], training_cache: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    lead, other = start_processes(
        2,
        training_cache(),
        run,
        student="test_vit",
        layer_weights="top2",
        epochs=100000,
        batch_size=4,
        device="cpu",
        log_steps=1,
    )
    lead.until(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text())
    other.interrupt(signal.SIGSTOP)
    signalled = time.monotonic()
    lead.interrupt(signal.SIGTERM)
    ended = lead.wait()
    other.interrupt(signal.SIGKILL)
    other.wait()
    assert ended.code == 1
    assert time.monotonic() - signalled < 2 * SOON
    assert "error: " in ended.err


def test_shard_size_of_another_cache_is_not_dropped(
    extract_tiny: Callable[..., Any], whole_cache: Path, files: Callable[[Path], dict[str, str]]
) -> None:
    before = files(whole_cache)
    ended = extract_tiny(whole_cache, shard_size=8)
    assert ended.code == 1
    is_the_machines(ended.sentence, "made with --shard-size 4, this run asks for --shard-size 8", "left untouched")
    assert files(whole_cache) == before
    assert "--calibration-views 9 changes nothing" in extract_tiny(whole_cache, calibration_views=9).err
