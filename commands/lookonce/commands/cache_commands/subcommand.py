"""What a subcommand of ``feature-cache`` declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lookonce.commands.command import CommonOptions


@dataclass(frozen=True, kw_only=True)
class Subcommand:
    """One thing that ``feature-cache`` does."""

    name: str
    """As users type it."""
    description: str
    """One sentence for ``--help``."""
    options: type[CommonOptions]
    """Its flags."""
    run: Callable[[Any], Mapping[str, Any]]
    """Takes an instance of ``options``; returns the JSON-compatible result, with ``exit_code`` when it is not 0."""
    summarise: Callable[[Mapping[str, Any]], str]
    """The result as lines for people."""
