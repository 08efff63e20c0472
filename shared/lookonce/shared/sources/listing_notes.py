"""Notes about a listing for the user: files that are left out, classes without images, images without a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev"})
"""Usual names of the folders of a dataset's splits."""

_SHOWN = 8


def left_out(kinds: Counter[str]) -> list[str]:
    """A note about files that are not listed, counted by their extensions.

    >>> left_out(Counter({".txt": 2, "without extension": 1}))
    ['left out: 3 files (2 .txt, 1 without extension)']
    """
    if not kinds:
        return []
    files = kinds.total()
    return [f"left out: {files} file{'s' * (files != 1)} ({by_kind(kinds)})"]


def by_kind(kinds: Counter[str]) -> str:
    """Counts by kind, the most frequent first."""
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{count} {kind}" for kind, count in ordered[:_SHOWN])
    rest = sum(count for _, count in ordered[_SHOWN:])
    return shown + (f", {rest} of {len(ordered) - _SHOWN} other kinds" if rest else "")


def empty_folders(folders: Iterable[str], classes: Iterable[str]) -> list[str]:
    """A note about folders that are not classes because they contain no image."""
    missing = sorted(set(folders) - set(classes))
    if not missing:
        return []
    return [f"not among the classes, because they contain no image: the folders {shown(missing)}"]


def numbers_as_names(labels: Collection[str]) -> list[str]:
    """Numbers among the names of classes: each then counts as a name, so it is not the number of its class."""
    numbers = sorted(label for label in labels if label.isdecimal())
    if not 0 < len(numbers) < len(labels):
        return []
    return [
        (
            f"labels are numbers ({shown(numbers)}) and names; all are taken as names, numbered in alphabetical "
            "order: use one kind if a number is meant as the number of its class"
        )
    ]


def splits(classes: Sequence[str]) -> list[str]:
    """A note if classes have the names of dataset splits."""
    found = [name for name in classes if name.lower() in SPLITS]
    if not found or (len(found) < 2 and len(classes) > 1):
        return []
    example = next((name for name in found if name.lower() == "train"), found[0])
    return [
        (
            f"the folders {shown(found)} look like the splits of a dataset, not like classes; all of them are listed "
            f"together, each as one class: name one in --images (.../{example}) to list that split and its classes"
        )
    ]


def loose(count: int, first: Sequence[str]) -> list[str]:
    """A note about images that lie beside the class folders."""
    if not count:
        return []
    names = shown(first) + (f" and {count - len(first)} more" if count > len(first) else "")
    return [f"without a label, because {'they lie' if count > 1 else 'it lies'} beside the class folders: {names}"]


def shown(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
