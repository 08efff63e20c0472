"""Ctrl-C and SIGTERM end a command within seconds, also while it waits for what never comes.

Python tells the main thread of a signal only when that is between two instructions: not while it waits, inside of a
library, for another process, a dead disk or a full pipe. So a thread of its own hears of signals, too. Where the main
thread has not ended by itself after some seconds, and is not at work that must become whole (a step, a checkpoint),
that thread ends the process.
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
from typing import TypeVar

from lookonce.shared.errors import Interrupted

_Result = TypeVar("_Result")

PATIENCE = 10.0
"""Seconds from a signal, or from the start of a wait behind it, to the end."""
STOPPED = "stopped; what was committed stays valid, run the same command again to resume"
_LOOK = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _State:
    """What the main thread is doing."""

    unhurried = 0
    """Blocks of work that must become whole, nested."""
    waits: tuple[tuple[float, float], ...] = ()
    """When each wait inside of such work began, and its patience; seconds of the monotonic clock."""
    signalled: float | None = None
    """When the first signal came."""


@contextlib.contextmanager
def ending_on_signals() -> Generator[None, None, None]:
    """Within, the first Ctrl-C or SIGTERM raises KeyboardInterrupt, and the process ends soon, whatever it waits for.

    Only in the main thread, where Python handles signals; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.signalled = None
    heard, tell = os.pipe()
    os.set_blocking(tell, False)
    number, over = signal.set_wakeup_fd(tell, warn_on_full_buffer=False), threading.Event()
    os.register_at_fork(after_in_child=_deafen)
    previous = {one: signal.signal(one, _interrupt) for one in _SIGNALS if signal.getsignal(one) is not signal.SIG_IGN}
    threading.Thread(target=_listen, args=(heard, over), name="lookonce-signals", daemon=True).start()
    try:
        yield
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)
        signal.set_wakeup_fd(number)
        over.set()
        os.close(tell)  # which ends the thread, unless a signal came: then it sees that the process does end


@contextlib.contextmanager
def unhurried() -> Generator[None, None, None]:
    """Within, work becomes whole first: who is inside looks after signals itself, but for its ``waiting``."""
    _State.unhurried += 1
    try:
        yield
    finally:
        _State.unhurried -= 1


@contextlib.contextmanager
def waiting(patience: float = PATIENCE) -> Generator[None, None, None]:
    """Within unhurried work, a wait that may be endless: a signal ends the process if the wait does not end soon.

    Args:
        patience: seconds.
    """
    _State.waits = (*_State.waits, (time.monotonic(), patience))
    try:
        yield
    finally:
        _State.waits = _State.waits[:-1]


def note_signal() -> None:
    """Told by who handles signals itself; see ``wait_for``."""
    if _State.signalled is None:
        _State.signalled = time.monotonic()


def forget_signals() -> None:
    """Work begins of which no signal was heard yet."""
    _State.signalled = None


def raise_if_stopped(began: float) -> None:
    """Call now and then in a wait that may be endless.

    Args:
        began: when the wait did, seconds of the monotonic clock.

    Raises:
        Interrupted: a signal came, and the wait has not ended for a few seconds behind it.
    """
    signalled = _State.signalled
    if signalled is not None and time.monotonic() - max(signalled, began) > PATIENCE / 2:
        raise Interrupted("stopped while waiting for input")


def wait_for(future: Future[_Result]) -> _Result:
    """A future's result; unlike ``result``, it does not wait for ever where a signal asks for the end.

    Raises:
        Interrupted: see ``raise_if_stopped``.
    """
    began = time.monotonic()
    while not future.done():
        wait([future], timeout=_LOOK)
        raise_if_stopped(began)
    return future.result()


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt  # no Exception: libraries on the way must not catch it


def _deafen() -> None:
    """A forked child shares the pipe: its signals are not its parent's."""
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)


def _listen(heard: int, over: threading.Event) -> None:
    with open(heard, "rb", buffering=0) as pipe:
        while number := pipe.read(1):
            if number[0] in _SIGNALS:
                break
        else:
            return
    _State.signalled = signalled = time.monotonic()
    while not over.is_set():
        if _overdue(signalled):
            sys.stderr.write(f"error: {STOPPED}\n")
            sys.stderr.flush()
            os._exit(1)
        time.sleep(_LOOK)
    while threading.main_thread().is_alive():  # whoever has called the command may have more to do
        time.sleep(_LOOK)
    time.sleep(PATIENCE)  # the end of the interpreter waits for threads, of which one may never end
    os._exit(1)


def _overdue(signalled: float) -> bool:
    now, waits = time.monotonic(), _State.waits
    if waits:
        began, patience = waits[-1]
        return now - max(signalled, began) > patience
    return not _State.unhurried and now - signalled > PATIENCE
