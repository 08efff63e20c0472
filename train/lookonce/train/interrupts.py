"""Ctrl-C and SIGTERM held back until a step is whole: a half-updated student is never saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from lookonce.shared.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DeferredInterrupts:
    """While entered, a first Ctrl-C or SIGTERM is only noted; a second one raises at once.

    Does nothing outside the main thread, where Python handles no signals, nor for a signal that is being ignored.
    """

    def __init__(self) -> None:
        self._noted: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def raise_noted(self) -> None:
        """Call between two steps.

        Raises:
            Interrupted: a signal came since the last call.
        """
        if self._noted is not None:
            raise Interrupted(f"stopped by {self._noted.name}")

    def __enter__(self) -> DeferredInterrupts:
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

    def _note(self, number: int, _frame: FrameType | None) -> None:
        repeated, self._noted = self._noted is not None, signal.Signals(number)
        if repeated:
            self.raise_noted()
