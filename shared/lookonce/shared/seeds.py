"""Augmentation seeds as users write them."""

from __future__ import annotations

import re

from lookonce.shared.errors import UsageError


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from ``0-3`` or ``0,2,5-7``: ascending, without repeats.

    Raises:
        UsageError: the text is not of that form, or a range runs backwards.

    >>> parse_seeds("0-2,7")
    (0, 1, 2, 7)
    """
    seeds: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise UsageError(f"--seeds {text!r}: expected numbers or ranges such as 0-3 or 0,2,5")
        seeds.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(seeds))
