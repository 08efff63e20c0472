"""A signal ends a command within seconds, whatever it waits for, but not work that must become whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from lookonce.shared import stopping
from lookonce.shared.errors import Interrupted
from lookonce.shared.stopping import STOPPED, forget_signals, note_signal, wait_for

PROGRAM = """
import ctypes, signal, threading, time
from lookonce.commands.command import CommonOptions, finish
from lookonce.shared.printing import Result
from lookonce.shared import stopping
from lookonce.shared.stopping import unhurried, waiting

stopping.PATIENCE = 1.0

def hang():  # inside of a library, where Python is not told of signals
    mutex, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)

def deaf(number, frame):
    print("noted", flush=True)

def work():
    print("ready", flush=True, file=open("/dev/stdout", "w"))
    {work}
    return Ended()

class Ended(Result):
    def document(self):
        return {{}}

    def text(self):
        return "ended by itself"

finish(work, CommonOptions())
"""


def end_of(work: str, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str, float]:
    """Exit code, standard output and error, and seconds from the signal to the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(work=work)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        signalled = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err, time.monotonic() - signalled


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "work",
    [
        "hang()",
        "time.sleep(100)",
        "[signal.signal(one, deaf) for one in stopping._SIGNALS]\n    with unhurried(), waiting(1.0): hang()",
        "threading.Thread(target=hang).start(); time.sleep(100)",
    ],
    ids=["in a library", "in Python", "in work that looks after signals", "in a thread"],
)
def test_a_wait_ends(work: str, number: signal.Signals) -> None:
    code, out, err, seconds = end_of(work, number)
    assert (code, out) == (1, "")
    assert err == f"error: {STOPPED}\n"
    assert seconds < 20


def test_a_later_signal_prints_no_traceback() -> None:
    """A worker that ends after the first signal sends its parent another, SIGCHLD."""
    work = """
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        time.sleep(30)
    except KeyboardInterrupt:
        time.sleep(0.5)
        signal.raise_signal(signal.SIGCHLD)
        raise"""
    code, _, said, _ = end_of(work)
    assert (code, said) == (1, f"error: {STOPPED}\n")


def test_work_becomes_whole() -> None:
    work = "signal.signal(signal.SIGTERM, deaf)\n    with unhurried():\n        [time.sleep(0.1) for _ in range(40)]"
    code, out, err, _ = end_of(work)
    assert (code, out) == (0, "ended by itself\n"), err


def test_a_future_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "PATIENCE", 0.5)
    forget_signals()
    never: Future[int] = Future()
    note_signal()
    with pytest.raises(Interrupted):
        wait_for(never)
    late: Future[int] = Future()
    forget_signals()
    threading.Timer(0.5, late.set_result, [3]).start()
    assert wait_for(late) == 3


@pytest.mark.parametrize("command", ["extract-features", "train-student", "feature-cache", "evaluate-student"])
def test_ctrl_c_during_the_imports_prints_one_sentence(command: str, tmp_path: Path) -> None:
    (tmp_path / "tyro.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [Path(sys.executable).parent / command, "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (1, "", "error: stopped; run the same command again\n")
