"""Defers Ctrl-C and SIGTERM to the end of a step, so that a half-updated student is never saved."""

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
"""Seconds after the first signal, from which on another one counts as a second."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DeferredInterrupts:
    """Within it, the first Ctrl-C or SIGTERM is recorded; a second one, over a second later, raises at once.

    torchrun forwards the Ctrl-C that the terminal has already sent to all of its processes; the delay keeps that from
    counting as a second one. Outside the main thread Python delivers no signals, and ignored signals stay ignored.

    Args:
        stop_asked: another way to ask for a stop, called between two steps.
    """

    def __init__(self, stop_asked: Callable[[], bool] = lambda: False) -> None:
        self._stop_asked = stop_asked
        self._received: signal.Signals | None = None
        self._received_at = 0.0
        self._previous: dict[signal.Signals, Any] = {}
        self._unhurried = unhurried()

    def raise_pending(self) -> None:
        """Call between two steps.

        Raises:
            Interrupted: a signal came, or ``stop_asked`` returned True.
        """
        if self._received is not None:
            raise Interrupted(f"stopped by {self._received.name}")
        if self._stop_asked():
            raise Interrupted("stopped")

    def __enter__(self) -> Self:
        forget_signals()
        self._unhurried.__enter__()
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._unhurried.__exit__(None, None, None)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        note_signal()
        if self._received is None:
            self._received, self._received_at = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._received_at > REPEATED_AFTER:
            self.raise_pending()
