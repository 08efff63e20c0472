"""From images in any order to entries in key order, with classes; keys that come twice are an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from lookonce.shared.errors import SourceError
from lookonce.shared.sources import listing_notes
from lookonce.shared.sources.entry_table import NO_LABEL, ListingEntry
from lookonce.shared.sources.sorted_runs import SortedRuns

MAXIMUM_CLASS = 1 << 20
"""Class numbers below this are numbers of classes; anything else is taken as a name."""

SHOWN = 3
"""Duplicate keys that an error lists."""


class ListingBuilder:
    """Collects the images of a source; memory does not grow with them.

    Args:
        runs: sorts them.
        parts: names of the files that hold the images, where there are many.
        classes: names of the classes, where the source knows them itself; every label is one of them.
        class_folders: whether, where no image has a label, the first part of a key is its class. It is, where more
            images lie in folders than beside them.
        notes: what the source has to say.

    Attributes:
        left_out: files that are not listed as images, counted by the ends of their names.
        folders: names of all folders at the top, also of those without an image; filled by the source.
    """

    def __init__(
        self,
        runs: SortedRuns,
        *,
        parts: Sequence[str] = (),
        classes: tuple[str, ...] | None = None,
        class_folders: bool = True,
        notes: Sequence[str] = (),
    ) -> None:
        self._runs, self._parts, self._given, self._class_folders = runs, parts, classes, class_folders
        self._labels: dict[str, int] = {}
        self._with_images: set[str] = set()
        self._in_folders = self._loose = 0
        self._first_loose: list[str] = []
        self._notes = tuple(notes)
        self.left_out: Counter[str] = Counter()
        self.folders: set[str] = set()

    def __len__(self) -> int:
        return len(self._runs)

    def add(
        self,
        key: str,
        byte_count: int,
        *,
        label: str | None = None,
        part: int = 0,
        offset: int = 0,
        modified_ns: int = 0,
    ) -> None:
        """Take one image; ``label`` is its class's name or number, the rest as in ``ListingEntry``."""
        number = NO_LABEL if label is None else self._labels.setdefault(label, len(self._labels))
        folder, slash, _ = key.partition("/")
        if slash:
            self._with_images.add(folder)
            self._in_folders += 1
        else:
            self._loose += 1
            if len(self._first_loose) < SHOWN:
                self._first_loose.append(key)
        self._runs.add((key, byte_count, number, part, offset, modified_ns))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names: the given ones; those of the labels; those of the folders, when most images lie in one."""
        if self._given is not None:
            return self._given
        if self._labels:
            numbers = [_class_number(label) for label in self._labels]
            known = [number for number in numbers if number is not None]
            return tuple(map(str, range(max(known) + 1))) if len(known) == len(numbers) else tuple(sorted(self._labels))
        return tuple(sorted(self._with_images)) if self._by_folder else ()

    @property
    def _by_folder(self) -> bool:
        return self._given is None and not self._labels and self._class_folders and self._in_folders > self._loose

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the images, a sentence each."""
        found = [*self._notes, *listing_notes.left_out(self.left_out)]
        if self._by_folder:
            found += listing_notes.empty_folders(self.folders, self._with_images)
            found += listing_notes.loose(self._loose, sorted(self._first_loose))
            found += listing_notes.splits(self.classes)
        return tuple(found)

    def entries(self) -> Iterator[ListingEntry]:
        """All images, sorted by key.

        Raises:
            SourceError: keys that come more than once; names them and the files that hold them.
        """
        number_of = {name: number for number, name in enumerate(self.classes)}
        by_label = {
            number: number_of[_plain(label) if label not in number_of else label]
            for label, number in self._labels.items()
        }
        by_folder = number_of if self._by_folder else {}
        previous: ListingEntry | None = None
        twice: list[str] = []
        count = 0
        for key, byte_count, number, part, offset, modified_ns in self._runs:
            folder, slash, _ = key.partition("/")
            label = (
                by_label.get(number, NO_LABEL) if by_label else by_folder.get(folder, NO_LABEL) if slash else NO_LABEL
            )
            entry = ListingEntry(key, label, byte_count, part, offset, modified_ns)
            if previous is not None and previous.key == key:
                count += 1
                if len(twice) < SHOWN:
                    twice.append(f"{key!r} in {self._place(previous)} and in {self._place(entry)}")
            else:
                yield entry
            previous = entry
        if count:
            raise SourceError(
                f"expected every key once, found {count} more than once: {'; '.join(twice)}"
                f"{' ...' if count > SHOWN else ''}; give each image a name of its own, or leave one of the files out"
            )

    def _place(self, entry: ListingEntry) -> str:
        return f"{self._parts[entry.part]} (byte {entry.offset})" if self._parts else "the source"


def _class_number(label: str) -> int | None:
    return int(label) if label.isascii() and label.isdecimal() and int(label) < MAXIMUM_CLASS else None


def _plain(label: str) -> str:
    """A class number as it is written in ``classes``: 007 is class 7."""
    return str(int(label))
