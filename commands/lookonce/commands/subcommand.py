"""What a subcommand of ``feature-cache`` declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lookonce.commands.command import CommonOptions
from lookonce.shared.printing import Result


@dataclass(frozen=True, kw_only=True)
class Subcommand:
    """One subcommand of ``feature-cache``."""

    name: str
    """The word on the command line."""
    description: str
    """One sentence for ``--help``."""
    options: type[CommonOptions]
    """Its flags."""
    run: Callable[[Any], Result]
    """Does the work for an instance of ``options``."""
