"""What the command and the processes of a run on Ray tell each other; light, as it is a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RunCoordinator:
    """An actor between the command and the processes: who has started, whether to stop, how it ended."""

    def __init__(self) -> None:
        self._starts = 0
        self._stop = False
        self._end: Mapping[str, Any] | None = None

    def count_start(self) -> int:
        """Called by the leading process; how often the run was started before."""
        self._starts += 1
        return self._starts - 1

    def starts(self) -> int:
        """How often the run was started."""
        return self._starts

    def request_stop(self) -> None:
        """Ask for a stop behind a checkpoint."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._stop

    def finish(self, end: Mapping[str, Any]) -> None:
        """How the run ended: ``summary`` or ``error``."""
        self._end = end

    def end(self) -> Mapping[str, Any] | None:
        """What was told, or None."""
        return self._end
