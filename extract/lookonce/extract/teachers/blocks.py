"""Which blocks of a teacher are stored: the values of ``--layers``."""

from __future__ import annotations

import re

from lookonce.shared.errors import UsageError
from lookonce.shared.names import close_names, did_you_mean


def resolve_blocks(text: str, block_count: int) -> tuple[int, ...]:
    """The 1-based block numbers of a ``--layers`` text, ascending.

    Args:
        text: ``topK`` (the last K blocks), ``all``, or distinct 1-based numbers like ``8,10,12``.
        block_count: number of blocks of the teacher.

    Raises:
        UsageError: another form, a repeated number, or a block that the teacher does not have.

    >>> resolve_blocks("top5", 12), resolve_blocks("all", 3), resolve_blocks("12,8,10", 12)
    ((8, 9, 10, 11, 12), (1, 2, 3), (8, 10, 12))
    """
    require_layers(text)
    text = text.strip()
    if text == "all":
        return tuple(range(1, block_count + 1))
    if match := re.fullmatch(r"top([1-9][0-9]*)", text):
        count = int(match[1])
        if count > block_count:
            raise UsageError(
                f"layers '{text}' asks for the last {count} blocks, but the teacher has {block_count}: "
                f"use 'all' or 'top{block_count}'"
            )
        return tuple(range(block_count - count + 1, block_count + 1))
    numbers = [int(part) for part in text.split(",")]
    for number in numbers:
        if not 1 <= number <= block_count:
            raise UsageError(f"there is no block {number} (of {text!r}): the teacher has blocks 1 to {block_count}")
        if numbers.count(number) > 1:
            raise UsageError(f"layers '{text}' names block {number} more than once")
    return tuple(sorted(numbers))


def require_layers(text: str) -> None:
    """Refuse a ``--layers`` text that is invalid for every teacher.

    Raises:
        UsageError: the text has none of the forms of ``resolve_blocks``.
    """
    if not re.fullmatch(r"all|top[1-9][0-9]*|[0-9]+(\s*,\s*[0-9]+)*", text.strip()):
        hint = did_you_mean(close_names(text, ("top5", "all")))
        raise UsageError(f"layers '{text}' is not understood{hint}: use 'top5', 'all' or block numbers like '8,10,12'")
