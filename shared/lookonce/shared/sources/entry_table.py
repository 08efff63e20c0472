"""The images of a listing as bytes, in memory or in a file; entries become objects on access.

A million entries as Python objects take some 300 MB, for the whole run of a driver. In this table an entry takes 36
bytes and its key, and a table in a file (see ``kept_listing.py``) takes no memory.

This is our own code and not SQLite, because threads and forked processes read one table by ``pread``, which a SQLite
connection does not allow. A table is also smaller (66 bytes instead of 95 per image), and one digest protects it.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Protocol, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.canonical import DIGEST_PREFIX, canonical_json
from lookonce.shared.errors import StorageError

NO_LABEL = -1
"""Label of an image without a class."""

ROW = struct.Struct("<QqqqiI")
"""An entry: end of its key in the bytes of all keys, byte count, offset, modification time, label, part;
little-endian."""

_ROW_FIELDS = np.dtype(
    [("key_end", "<u8"), ("bytes", "<i8"), ("offset", "<i8"), ("modified", "<i8"), ("label", "<i4"), ("part", "<u4")]
)

CHUNK = 4096
"""Number of entries that are decoded at a time during iteration."""


@dataclass(frozen=True, slots=True)
class ListingEntry:
    """One image of a source."""

    key: str
    """Name of the sample, unique in its source; it seeds views and masks."""
    label: int
    """Index into ``Listing.classes``, or -1 for none."""
    byte_count: int
    """Size of the encoded image in bytes."""
    part: int = 0
    """Number of the source's file that contains it, for files with many images."""
    offset: int = 0
    """Its start in that file, a byte or a row."""
    modified_ns: int = 0
    """Modification time of its own file in ns; 0 if it has no own file. It is not part of a listing's digest."""

    def __reduce__(self) -> tuple[object, ...]:
        fields = (self.key, self.label, self.byte_count, self.part, self.offset, self.modified_ns)
        return ListingEntry, fields  # a third of the time that dataclasses with slots take


class Bytes(Protocol):
    """Bytes that are read in ranges."""

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from ``start`` up to ``stop``."""
        ...


class BytesInMemory:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from ``start`` up to ``stop``."""
        return self._data[start:stop]


class BytesInFile:
    """Part of an open file. It takes no memory and stays readable after the file is unlinked.

    Args:
        descriptor: descriptor of the open file; it is duplicated.
        base: first byte of the part.
    """

    def __init__(self, descriptor: int, base: int) -> None:
        self._descriptor, self._base = os.dup(descriptor), base
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from ``start`` up to ``stop``.

        Raises:
            StorageError: the file is shorter.
        """
        data = os.pread(self._descriptor, stop - start, self._base + start)
        if len(data) != stop - start:
            raise StorageError(
                f"the stored listing was truncated at byte {self._base + start + len(data)} while it was in use; run "
                "again: the images are listed again"
            )
        return data


class EntryTable(Sequence[ListingEntry]):
    """Entries in key order. A slice is a table that shares the bytes; its pickle contains only its own entries.

    Args:
        rows: one ``ROW`` per entry.
        keys: UTF-8 bytes of all keys, concatenated.
        span: range of rows that belong to this table.
        digest: digest of the table, if it is known.
    """

    def __init__(self, rows: Bytes, keys: Bytes, span: range, digest: str | None = None) -> None:
        self._rows, self._keys, self._span = rows, keys, span
        if digest is not None:
            self.digest = digest

    @classmethod
    def of(cls, entries: Sequence[ListingEntry]) -> EntryTable:
        """A table in memory of entries in key order."""
        rows, keys, _ = packed(entries, 0)
        return cls.in_memory(rows, keys)

    @classmethod
    def in_memory(cls, rows: bytes, keys: bytes) -> EntryTable:
        """A table of rows and keys."""
        return cls(BytesInMemory(rows), BytesInMemory(keys), range(len(rows) // ROW.size))

    def __len__(self) -> int:
        return len(self._span)

    @overload
    def __getitem__(self, index: SupportsIndex) -> ListingEntry: ...
    @overload
    def __getitem__(self, index: slice) -> EntryTable: ...
    def __getitem__(self, index: SupportsIndex | slice) -> ListingEntry | EntryTable:
        if isinstance(index, slice):
            span = self._span[index]
            if span.step != 1:
                raise ValueError(f"slices of a listing need step 1, found {span.step}")
            return EntryTable(self._rows, self._keys, span)
        row = self._span[index]
        return self._entries(row, row + 1)[0]

    def __iter__(self) -> Iterator[ListingEntry]:
        for start in range(self._span.start, self._span.stop, CHUNK):
            yield from self._entries(start, min(start + CHUNK, self._span.stop))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EntryTable):
            return NotImplemented
        return len(self) == len(other) and all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(len(self))

    @property
    def labels(self) -> NDArray[np.int32]:
        """Label of each entry, int32 (entries,)."""
        rows = self._rows.read(self._span.start * ROW.size, self._span.stop * ROW.size)
        return np.frombuffer(rows, _ROW_FIELDS)["label"].copy()

    def at(self, places: NDArray[np.int64]) -> EntryTable:
        """A table in memory of the entries at some ascending positions."""
        found: list[ListingEntry] = []
        for start in range(0, len(self), CHUNK):
            inside = places[np.searchsorted(places, start) : np.searchsorted(places, start + CHUNK)]
            if len(inside):
                some = list(self[start : start + CHUNK])
                found += [some[place - start] for place in inside.tolist()]
        return EntryTable.of(found)

    def __reduce__(self) -> tuple[object, ...]:
        rows, keys, _ = packed(list(self), 0)
        return _table_in_memory, (rows, keys)  # a function: Ray pickles a class method by value, with its globals

    @cached_property
    def digest(self) -> str:
        """``sha256:`` over the canonical JSON of all [key, byte count] pairs."""
        digest = ListingDigest()
        for start in range(0, len(self), CHUNK):
            digest.add([(entry.key, entry.byte_count) for entry in self[start : start + CHUNK]])
        return digest.text()

    def _entries(self, start: int, stop: int) -> list[ListingEntry]:
        before = max(0, start - 1)
        rows = list(ROW.iter_unpack(self._rows.read(before * ROW.size, stop * ROW.size)))
        key_start = rows.pop(0)[0] if start else 0
        text = self._keys.read(key_start, rows[-1][0])
        entries, position = [], 0
        for key_end, byte_count, offset, modified_ns, label, part in rows:
            key = text[position : key_end - key_start].decode()
            entries.append(ListingEntry(key, label, byte_count, part, offset, modified_ns))
            position = key_end - key_start
        return entries


def _table_in_memory(rows: bytes, keys: bytes) -> EntryTable:
    return EntryTable.in_memory(rows, keys)


def packed(entries: Sequence[ListingEntry], key_start: int) -> tuple[bytes, bytes, int]:
    """Rows and keys of entries whose keys start at ``key_start``, and the end of the keys."""
    rows, keys, end = [], [entry.key.encode() for entry in entries], key_start
    for entry, key in zip(entries, keys, strict=True):
        end += len(key)
        rows.append(ROW.pack(end, entry.byte_count, entry.offset, entry.modified_ns, entry.label, entry.part))
    return b"".join(rows), b"".join(keys), end


class ListingDigest:
    """Digest of [key, byte count] pairs, computed incrementally; equal to ``digest_document`` of all pairs."""

    def __init__(self) -> None:
        self._hash, self._first = sha256(b"["), True

    def add(self, pairs: Sequence[tuple[str, int]]) -> None:
        """Add the next pairs."""
        if pairs:
            self._hash.update((b"" if self._first else b",") + canonical_json([list(pair) for pair in pairs])[1:-1])
            self._first = False

    def text(self) -> str:
        """``sha256:<64 hex digits>`` of the added pairs."""
        finished = self._hash.copy()
        finished.update(b"]")
        return DIGEST_PREFIX + finished.hexdigest()
