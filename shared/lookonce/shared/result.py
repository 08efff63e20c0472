"""What the work of a command returns: a result that prints itself, for people and as JSON."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol


class Result(Protocol):
    """The result of a command."""

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 0, unless the work is done and found something wrong."""
        return 0

    @abstractmethod
    def document(self) -> Mapping[str, Any]:
        """The result as a JSON-compatible document: what ``--json`` prints."""

    @abstractmethod
    def text(self) -> str:
        """The result as lines for people."""
