"""Turns the images of a source, found in any order, into entries in key order with classes; refuses duplicate keys."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Self

from lookonce.shared.errors import SourceError, StorageError
from lookonce.shared.sources import listing_notes
from lookonce.shared.sources.entry_table import NO_LABEL, ListingEntry

Row = tuple[str, int, int, int, int, int]
"""Key, byte count, number of the label (-1 for none), part, offset, time of change in ns."""

MAXIMUM_CLASS = 1 << 20
"""Labels that are integers below this are class numbers; all others are class names."""

SHOWN = 3
"""Number of duplicate keys that an error lists, and of loose images that a note lists."""

ROWS_PER_INSERT = 4096
CACHE_KIB = 4096
"""Memory of the database; what exceeds it goes to a temporary file without a name."""


class SortedImages:
    """Takes rows in any order and returns them sorted by key; SQLite sorts beyond memory.

    Raises:
        StorageError: the folder of temporary files has no room.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("")  # a temporary file that SQLite unlinks at once
        self._database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE images (key TEXT, bytes, label, part, offset, modified)")
        self._pending: list[Row] = []
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def __len__(self) -> int:
        return self._count

    def add(self, row: Row) -> None:
        """Add one image."""
        self._pending.append(row)
        self._count += 1
        if len(self._pending) == ROWS_PER_INSERT:
            self._insert()

    def __iter__(self) -> Iterator[Row]:
        self._insert()
        try:
            yield from self._database.execute("SELECT * FROM images ORDER BY key, bytes, label, part, offset")
        except sqlite3.OperationalError as error:
            raise _no_room(error) from error

    def _insert(self) -> None:
        try:
            self._database.executemany("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?)", self._pending)
        except sqlite3.OperationalError as error:
            raise _no_room(error) from error
        self._pending.clear()


def _no_room(error: sqlite3.OperationalError) -> StorageError:
    return StorageError(
        f"sorting a listing in the folder of temporary files failed: {error}; make room there, or set TMPDIR and "
        "SQLITE_TMPDIR to a folder with room, then run the same command again"
    )


class ListingBuilder:
    """Collects the images of a source; memory does not grow with their number.

    Args:
        images: sorts them by key.
        parts: names of the files that contain the images, if there are several.
        classes: names of the classes, if the source defines them; every label is one of them.
        class_folders: whether the first part of a key may be its class. It is used if no image has a label and more
            images lie in folders than beside them.
        notes: notes of the source for the user.

    Attributes:
        left_out: number of files that are not listed as images, by the ends of their names.
        folders: names of all top-level folders, with or without images; the source fills it.
    """

    def __init__(
        self,
        images: SortedImages,
        *,
        parts: Sequence[str] = (),
        classes: tuple[str, ...] | None = None,
        class_folders: bool = True,
        notes: Sequence[str] = (),
    ) -> None:
        self._images, self._parts, self._given, self._class_folders = images, parts, classes, class_folders
        self._labels: dict[str, int] = {}
        self._with_images: set[str] = set()
        self._in_folders = self._loose = 0
        self._first_loose: list[str] = []
        self._notes = tuple(notes)
        self.left_out: Counter[str] = Counter()
        self.folders: set[str] = set()

    def __len__(self) -> int:
        return len(self._images)

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
        """Add one image; ``label`` is the name or number of its class, the rest is as in ``ListingEntry``."""
        number = NO_LABEL if label is None else self._labels.setdefault(label, len(self._labels))
        folder, slash, _ = key.partition("/")
        if slash:
            self._with_images.add(folder)
            self._in_folders += 1
        else:
            self._loose += 1
            if len(self._first_loose) < SHOWN:
                self._first_loose.append(key)
        self._images.add((key, byte_count, number, part, offset, modified_ns))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names: the given ones, else those of the labels, else the folders, if most images lie in folders."""
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
        """Notes about the images for the user, one sentence each."""
        found = [*self._notes, *listing_notes.left_out(self.left_out)]
        if self._given is None:
            found += listing_notes.numbers_as_names(self._labels)
        if self._by_folder:
            found += listing_notes.empty_folders(self.folders, self._with_images)
            found += listing_notes.loose(self._loose, sorted(self._first_loose))
            found += listing_notes.splits(self.classes)
        return tuple(found)

    def entries(self) -> Iterator[ListingEntry]:
        """All images, sorted by key.

        Raises:
            SourceError: keys that come more than once; names them and the files that contain them.
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
        for key, byte_count, number, part, offset, modified_ns in self._images:
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
                f"{' ...' if count > SHOWN else ''}; give each image its own name, or leave one of the files out"
            )

    def _place(self, entry: ListingEntry) -> str:
        return f"{self._parts[entry.part]} (byte {entry.offset})" if self._parts else "the source"


def _class_number(label: str) -> int | None:
    return int(label) if label.isascii() and label.isdecimal() and int(label) < MAXIMUM_CLASS else None


def _plain(label: str) -> str:
    """A class number as in ``classes``: 007 is class 7."""
    return str(int(label))
