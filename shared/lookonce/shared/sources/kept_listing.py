"""Stores a large listing in a file, and uses it again while the source is unchanged.

The files lie in ``$XDG_CACHE_HOME/lookonce/listings`` (default ``~/.cache``), one per source. A listing is valid while
every folder (or tar) that was read has the same size and modification time; adding, removing or renaming a file changes
those of its folder. Overwriting a file in place does not, so its size is compared when it is read. If a folder changed
in the two seconds before the listing, it may change again without a new modification time, so the listing is not
stored. A small listing is not stored either, because listing again is fast.

Format, little-endian: rows (``entry_table.ROW``), keys (UTF-8), folders and tars that were read (one line of JSON each:
path, size, modification time in ns), a JSON object, its length (8 bytes), and the SHA-256 of all before (32 bytes).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from lookonce.shared.errors import StorageError
from lookonce.shared.faults.os_errors import storage_error
from lookonce.shared.files.atomic import atomic_file
from lookonce.shared.sources.entry_table import CHUNK, ROW, BytesInFile, EntryTable, ListingDigest, packed
from lookonce.shared.sources.listing import Listing
from lookonce.shared.sources.listing_builder import ListingBuilder, SortedImages

VERSION = 4
"""Incremented when the format or the rules of listing change; older stored listings are ignored."""

KEPT_FROM = 10_000
"""Least number of images of a stored listing."""

SETTLED_NS = 2_000_000_000
"""Least age of the last change in ns; some file systems count time in steps of two seconds."""

_TAIL = 8 + 32

Watch = Callable[[str], None]
"""Called with the path of each folder or file that determines the listing, before it is read."""


def kept_listing(
    name: str, state: str, scan: Callable[[SortedImages, Watch], ListingBuilder], *, refresh: bool = False
) -> Listing:
    """The stored listing of a source if it is still valid, otherwise a new one.

    Args:
        name: name of the source, its kind and absolute path.
        state: further text that must equal that of a stored listing.
        scan: lists the source.
        refresh: list the source again in any case.

    Raises:
        SourceError: ``scan`` raised it, or a key occurs twice.
        StorageError: neither the folder of listings nor the folder of temporary files has room.
    """
    path = listings_folder() / f"{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.listing"
    found = None if refresh else _stored(path, name, state)
    if found is not None:
        return found
    about: dict[str, Any] = {"version": VERSION, "name": name, "state": state, "listed_at_ns": time.time_ns()}
    with SortedImages() as images, tempfile.SpooledTemporaryFile(max_size=1 << 20) as watched:
        last_change = 0

        def watch(watched_path: str) -> None:
            nonlocal last_change
            size, changed = stamp(watched_path)
            last_change = max(last_change, changed)
            watched.write(json.dumps([watched_path, size, changed]).encode() + b"\n")

        builder = scan(images, watch)
        about["classes"], about["notes"] = builder.classes, builder.notes
        if len(builder) < KEPT_FROM:
            return Listing(EntryTable.of(list(builder.entries())), builder.classes, notes=builder.notes)
        if last_change < about["listed_at_ns"] - SETTLED_NS:
            with contextlib.suppress(StorageError), atomic_file(path) as kept:
                _write(kept, about, builder, watched)
            if (listing := _opened(path, name)) is not None:
                return listing
        with tempfile.TemporaryFile() as nameless:
            try:
                _write(nameless, about, builder, watched)
                nameless.flush()
            except OSError as error:
                raise storage_error(error, Path(tempfile.gettempdir()), "writing a listing") from error
            return _listing(nameless.fileno(), _footer(nameless.fileno()))


def listings_folder() -> Path:
    """Folder of stored listings."""
    wanted = (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache"))
    base = next(filter(os.path.isabs, wanted), f"{tempfile.gettempdir()}/cache-{os.getuid()}")
    return Path(base) / "lookonce" / "listings"


def stamp(path: str) -> tuple[int, int]:
    """Size in bytes and modification time in ns of a file or folder.

    Raises:
        OSError: it does not exist.
    """
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


class _Hashed:
    """Writes to a file and updates a digest of the written bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.hash, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.size += len(data)
        return self._file.write(data)


def _write(file: IO[bytes], about: dict[str, Any], builder: ListingBuilder, watched: Any) -> None:
    out, digest, samples, key_end = _Hashed(file), ListingDigest(), 0, 0
    with tempfile.TemporaryFile() as all_keys:
        for chunk in _chunks(builder.entries()):
            rows, keys, key_end = packed(chunk, key_end)
            out.write(rows)
            all_keys.write(keys)
            digest.add([(entry.key, entry.byte_count) for entry in chunk])
            samples += len(chunk)
        for part in (all_keys, watched):
            part.seek(0)
            shutil.copyfileobj(part, out)
    sizes = {"samples": samples, "key_bytes": key_end, "watched_bytes": out.size - samples * ROW.size - key_end}
    footer = json.dumps({**about, **sizes, "digest": digest.text()}).encode()
    out.write(footer + len(footer).to_bytes(8, "little"))
    file.write(out.hash.digest())


def _chunks(entries: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(entries)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def _stored(path: Path, name: str, state: str) -> Listing | None:
    """The listing at ``path`` if everything that determined it is unchanged."""
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        footer = _footer(file.fileno())
        if (footer["version"], footer["name"], footer["state"]) != (VERSION, name, state):
            return None
        file.seek(footer["samples"] * ROW.size + footer["key_bytes"])
        end = file.tell() + footer["watched_bytes"]
        while file.tell() < end:
            place, *before = json.loads(file.readline())
            if list(stamp(place)) != before:
                return None
        return _listing(file.fileno(), footer, stored_at=footer["listed_at_ns"] / 1e9) if _sound(file) else None
    return None


def _opened(path: Path, name: str) -> Listing | None:
    """The listing that was just written; None if writing failed."""
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        footer = _footer(file.fileno())
        return _listing(file.fileno(), footer) if footer["name"] == name else None
    return None


def _sound(file: IO[bytes]) -> bool:
    size, hasher = os.fstat(file.fileno()).st_size, hashlib.sha256()
    file.seek(0)
    left = size - 32
    while block := file.read(min(1 << 20, left)):
        hasher.update(block)
        left -= len(block)
    return hasher.digest() == file.read(32)


def _footer(descriptor: int) -> dict[str, Any]:
    size = os.fstat(descriptor).st_size
    length = int.from_bytes(os.pread(descriptor, 8, max(0, size - _TAIL)), "little")
    if not 0 < length <= size - _TAIL:
        raise ValueError("not a listing")
    footer: dict[str, Any] = json.loads(os.pread(descriptor, length, size - _TAIL - length))
    return footer


def _listing(descriptor: int, footer: dict[str, Any], stored_at: float | None = None) -> Listing:
    rows, samples = BytesInFile(descriptor, 0), footer["samples"]
    keys = BytesInFile(descriptor, samples * ROW.size)
    table = EntryTable(rows, keys, range(samples), footer["digest"])
    return Listing(table, tuple(footer["classes"]), stored_at, tuple(footer["notes"]))
