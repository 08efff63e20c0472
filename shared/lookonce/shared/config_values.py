"""Values of configs as users give them: paths as text, augmentation seeds as ranges."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from lookonce.shared.errors import UsageError


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


MOST_SEEDS = 100_000
"""Seeds of one command; more are a slip of the keyboard, and a set of them may not fit into memory."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from ``0-3`` or ``0,2,5-7``: ascending, without repeats.

    Raises:
        UsageError: the text is not of that form, a range runs backwards, or there are more than ``MOST_SEEDS``.

    >>> parse_seeds("0-2,7")
    (0, 1, 2, 7)
    """
    seeds: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if not match:
            raise UsageError(f"--seeds {text!r}: expected numbers or ranges such as 0-3 or 0,2,5")
        if int(match[2] or match[1]) < int(match[1]):
            raise UsageError(f"--seeds {text!r}: the range {part.strip()} runs backwards; write {match[2]}-{match[1]}")
        asked = range(int(match[1]), int(match[2] or match[1]) + 1)
        if len(seeds) + len(asked) > MOST_SEEDS:
            raise UsageError(f"--seeds {text!r}: expected at most {MOST_SEEDS:,} seeds")
        seeds.update(asked)
    return tuple(sorted(seeds))
