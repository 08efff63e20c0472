"""Messages for unknown names, with suggestions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def close_names(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Known names similar to ``name``, the most similar first; letter case, ``_`` and ``-`` do not matter.

    Args:
        name: the given name.
        known: all known names.
        most: greatest number of returned names.

    >>> close_names("deit_tiny", ["deit-small", "deit-tiny", "clip-b16"], most=1)
    ['deit-tiny']
    >>> close_names("clip", ["clip-b16", "clip-l14", "siglip-b16", "dino-b16"])
    ['clip-b16', 'clip-l14']
    >>> close_names("xyz", ["clip-b16"])
    []
    """
    typed = _plain(name)
    spelled = {one: _plain(one) for one in known}
    if not typed:
        return []
    begins = sorted((one for one, plain in spelled.items() if plain.startswith(typed)), key=len)
    alike = {plain: one for one, plain in reversed(spelled.items())}
    matches = [alike[plain] for plain in difflib.get_close_matches(typed, alike, n=most, cutoff=0.6)]
    holds = [one for one, plain in spelled.items() if typed in plain]
    return list(dict.fromkeys([*begins, *matches, *holds]))[:most]


def did_you_mean(close: Sequence[str]) -> str:
    """The close names as a question in brackets; empty if there are none.

    >>> did_you_mean(["a", "b", "c"]), did_you_mean(["a"]), did_you_mean([])
    (' (did you mean a, b or c?)', ' (did you mean a?)', '')
    """
    if not close:
        return ""
    *first, last = close
    return f" (did you mean {', '.join(first)} or {last}?)" if first else f" (did you mean {last}?)"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Message about an unknown name, with similar names and all known names.

    >>> unknown_name("loss", "L1", ["l1", "l2"])
    "unknown loss 'L1' (did you mean l1?); known: l1, l2"
    """
    names = tuple(known)
    return f"unknown {kind} {name!r}{did_you_mean(close_names(name, names))}; known: {', '.join(names)}"


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")
