"""Ctrl-C and SIGTERM held back until a step is whole: a half-updated student is never saved."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from lookonce.shared.errors import Interrupted
from lookonce.shared.stopping import forget_signals, note_signal, unhurried

REPEATED_AFTER = 1.0
"""Seconds after which another signal is meant as one more."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DeferredInterrupts:
    """While entered, a first Ctrl-C or SIGTERM is only noted; a second one, over a second later, raises at once.

    torchrun hands on the Ctrl-C that the terminal has already sent to all of its processes: that is not a second one.
    Handles no signals outside the main thread, where Python has none, nor one that is being ignored.

    Args:
        stop_asked: another way to ask for a stop, looked at between two steps.
    """

    def __init__(self, stop_asked: Callable[[], bool] = lambda: False) -> None:
        self._stop_asked = stop_asked
        self._noted: signal.Signals | None = None
        self._noted_at = 0.0
        self._previous: dict[signal.Signals, Any] = {}
        self._unhurried = unhurried()

    def raise_noted(self) -> None:
        """Call between two steps.

        Raises:
            Interrupted: a signal came, or a stop was asked for.
        """
        if self._noted is not None:
            raise Interrupted(f"stopped by {self._noted.name}")
        if self._stop_asked():
            raise Interrupted("stopped")

    def __enter__(self) -> Self:
        forget_signals()
        self._unhurried.__enter__()
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._unhurried.__exit__(None, None, None)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        note_signal()
        if self._noted is None:
            self._noted, self._noted_at = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._noted_at > REPEATED_AFTER:
            self.raise_noted()
