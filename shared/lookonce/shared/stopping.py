"""Ends a command within seconds after Ctrl-C or SIGTERM, even during an endless wait.

Python runs signal handlers in the main thread between two instructions, not while a library waits for another process,
a dead disk or a full pipe. A second thread therefore receives signals too. It ends the process if the main thread has
not ended after some seconds, unless the main thread is in work that must finish (a step, a checkpoint).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future, wait
from typing import NoReturn, TypeVar

from lookonce.shared.errors import Interrupted

_Result = TypeVar("_Result")

PATIENCE = 10.0
"""Seconds from a signal, or from the start of a later wait, to the forced end."""
STOPPED = "stopped; what was committed stays valid, run the same command again to resume"
_POLL_SECONDS = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _State:
    """State of the main thread."""

    unhurried = 0
    """Number of nested blocks of work that must finish."""
    waits: tuple[tuple[float, float], ...] = ()
    """Start of each wait inside such work, in seconds of the monotonic clock, and its patience."""
    signalled: float | None = None
    """Time of the first signal, in seconds of the monotonic clock."""


@contextlib.contextmanager
def ending_on_signals() -> Generator[None, None, None]:
    """Inside, the first Ctrl-C or SIGTERM raises KeyboardInterrupt, and the process ends soon even if it waits.

    It works only in the main thread, where Python handles signals; in other threads it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.signalled = None
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    number, over = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False), threading.Event()
    os.register_at_fork(after_in_child=_forget_wakeup_pipe)
    previous = {one: signal.signal(one, _interrupt) for one in _SIGNALS if signal.getsignal(one) is not signal.SIG_IGN}
    threading.Thread(target=_listen, args=(read_end, over), name="lookonce-signals", daemon=True).start()
    try:
        yield
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)
        signal.set_wakeup_fd(number)
        over.set()
        os.close(write_end)  # ends the thread, unless a signal came: then it waits until the process ends


@contextlib.contextmanager
def unhurried() -> Generator[None, None, None]:
    """Inside, work finishes first: the caller handles signals itself, except during ``waiting``."""
    _State.unhurried += 1
    try:
        yield
    finally:
        _State.unhurried -= 1


@contextlib.contextmanager
def waiting(patience: float = PATIENCE) -> Generator[None, None, None]:
    """A possibly endless wait inside ``unhurried`` work: after a signal, the process ends if the wait does not.

    Args:
        patience: seconds until then.
    """
    _State.waits = (*_State.waits, (time.monotonic(), patience))
    try:
        yield
    finally:
        _State.waits = _State.waits[:-1]


def note_signal() -> None:
    """Record a signal; for callers that handle signals themselves. See ``wait_for``."""
    if _State.signalled is None:
        _State.signalled = time.monotonic()


def forget_signals() -> None:
    """Forget earlier signals, at the start of new work."""
    _State.signalled = None


def raise_if_stopped(began: float) -> None:
    """Call this repeatedly in a possibly endless wait.

    Args:
        began: start of the wait, in seconds of the monotonic clock.

    Raises:
        Interrupted: the wait has lasted a few seconds after a signal.
    """
    signalled = _State.signalled
    if signalled is not None and time.monotonic() - max(signalled, began) > PATIENCE / 2:
        raise Interrupted("stopped while waiting for input")


def wait_for(future: Future[_Result]) -> _Result:
    """The result of a future; unlike ``Future.result``, it stops waiting after a signal.

    Raises:
        Interrupted: see ``raise_if_stopped``.
    """
    began = time.monotonic()
    while not future.done():
        wait([future], timeout=_POLL_SECONDS)
        raise_if_stopped(began)
    return future.result()


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt  # not an Exception: libraries must not catch it


def _forget_wakeup_pipe() -> None:
    """Detach a forked child from the pipe: its signals are not those of its parent."""
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)


def _listen(read_end: int, over: threading.Event) -> None:
    with open(read_end, "rb", buffering=0) as pipe:  # open to the end: Python prints a traceback if it cannot write
        while number := pipe.read(1):
            if number[0] in _SIGNALS:
                _end_when_due(over)


def _end_when_due(over: threading.Event) -> NoReturn:
    _State.signalled = signalled = time.monotonic()
    while not over.is_set():
        if _overdue(signalled):
            sys.stderr.write(f"error: {STOPPED}\n")
            sys.stderr.flush()
            os._exit(1)
        time.sleep(_POLL_SECONDS)
    while threading.main_thread().is_alive():  # the caller of the command may have more work
        time.sleep(_POLL_SECONDS)
    time.sleep(PATIENCE)  # the interpreter waits for all threads, and one may never end
    os._exit(1)


def _overdue(signalled: float) -> bool:
    now, waits = time.monotonic(), _State.waits
    if waits:
        began, patience = waits[-1]
        return now - max(signalled, began) > patience
    return not _State.unhurried and now - signalled > PATIENCE
