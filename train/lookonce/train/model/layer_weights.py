"""The aligned teacher blocks and their weights in the loss."""

from __future__ import annotations

import re

from lookonce.shared.errors import UsageError
from lookonce.shared.names import unknown_name

KNOWN_LAYER_WEIGHTS = ("topK", "midK", "mean", "out", "linear-decay")
"""Names that :func:`layer_weights` accepts; K is a number, e.g. ``top5``, ``mid2``."""


def layer_weights(name: str, levels: int) -> tuple[float, ...]:
    """Weight of every teacher block in the loss, first block first; they sum to 1.

    ``topK``: the last K blocks equally; ``mean``: all blocks equally; ``out``: the last block; ``midK``: 0-based block
    K; ``linear-decay``: 0-based block i weighs i / sum, so the first block has no weight.

    Args:
        name: one of these; ``_`` stands for ``-`` as well.
        levels: number of blocks of the teacher, at least 1.

    Returns:
        ``levels`` weights, each in [0, 1].

    Raises:
        UsageError: unknown name, or K does not fit the number of blocks.

    >>> layer_weights("top2", 4)
    (0.0, 0.0, 0.5, 0.5)
    >>> layer_weights("linear-decay", 3)
    (0.0, 0.3333333333333333, 0.6666666666666666)
    """
    raw = _raw_weights(name, levels)
    total = sum(raw)
    if total == 0:
        raise UsageError(f"layer weights {name!r} leave no block to align in a teacher of {levels} blocks")
    return tuple(weight / total for weight in raw)


def aligned_blocks(name: str, levels: int) -> tuple[int, ...]:
    """1-based numbers of the teacher blocks with non-zero weight, ascending: those that the cache must contain.

    Args and errors are those of :func:`layer_weights`.

    >>> aligned_blocks("top5", 12)
    (8, 9, 10, 11, 12)
    """
    return tuple(number for number, weight in enumerate(layer_weights(name, levels), start=1) if weight != 0)


def validate_layer_weights_name(name: str) -> None:
    """Raise UsageError unless ``name`` is a known name; the number of blocks is checked by ``layer_weights``."""
    _parse(name)


def _parse(name: str) -> tuple[str, int]:
    """Split a name into its form and its number (0 for forms without one)."""
    canonical = name.replace("_", "-")
    if canonical in ("mean", "out", "linear-decay"):
        return canonical, 0
    match = re.fullmatch(r"(top|mid)([0-9]+)", canonical)
    if match is None:
        raise UsageError(f"{unknown_name('layer weights', name, KNOWN_LAYER_WEIGHTS)} (K a number)")
    return match[1], int(match[2])


def _raw_weights(name: str, levels: int) -> list[int]:
    form, number = _parse(name)
    if levels < 1:
        raise UsageError(f"layer weights {name!r}: a teacher has at least one block, found {levels}")
    if form == "top" and not 1 <= number <= levels:
        raise UsageError(f"layer weights {name!r}: K must be 1 to {levels}, the teacher's number of blocks")
    if form == "mid" and number >= levels:
        raise UsageError(f"layer weights {name!r}: K must be 0 to {levels - 1}, a 0-based block of the teacher")
    if form == "mid":
        return [int(index == number) for index in range(levels)]
    if form == "linear-decay":
        return list(range(levels))
    first = {"top": levels - number, "out": levels - 1, "mean": 0}[form]
    return [int(index >= first) for index in range(levels)]
