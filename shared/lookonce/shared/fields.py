"""Fields of frozen configs as users of Python give them: paths as text, numbers where a command takes text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def convert_fields(config: Any, kind: Callable[[Any], Any], *names: str) -> None:
    """Convert some fields of a frozen dataclass, from its ``__post_init__``; None stays None.

    Args:
        config: the dataclass.
        kind: what makes the value, such as ``Path`` or ``str``.
        names: the fields.
    """
    for name in names:
        given = getattr(config, name)
        if given is not None:
            object.__setattr__(config, name, kind(given))
