"""Communication between the command and the processes of a run on Ray; imports little: it runs in its own process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RunCoordinator:
    """An actor that stores the starts of a run, a requested stop, and the result."""

    def __init__(self) -> None:
        self._starts = 0
        self._stop = False
        self._end: Mapping[str, Any] | None = None

    def count_start(self) -> int:
        """Count a start of the leading process; returns the number of earlier starts."""
        self._starts += 1
        return self._starts - 1

    def starts(self) -> int:
        """Number of starts."""
        return self._starts

    def request_stop(self) -> None:
        """Request a stop after the next checkpoint."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Whether a stop is requested."""
        return self._stop

    def finish(self, end: Mapping[str, Any]) -> None:
        """Store the result of the run: a mapping with ``summary`` or ``error``."""
        self._end = end

    def end(self) -> Mapping[str, Any] | None:
        """The result; None before the end."""
        return self._end
