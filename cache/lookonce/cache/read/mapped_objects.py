"""Objects mapped into memory: opened once, checked, and closed when too many are open."""

from __future__ import annotations

import collections
import hashlib
import mmap
import os
import resource
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.advice import REPAIR, RESUME
from lookonce.cache.containers.container import Places
from lookonce.cache.containers.unmapped import FileBytes, note_unmapped
from lookonce.shared.canonical import DIGEST_PREFIX
from lookonce.shared.errors import IntegrityError
from lookonce.shared.faults.os_errors import ABSENT, access_error, os_reason
from lookonce.storage_schemas.receipt import StoredObject

Bytes = NDArray[np.uint8]
Key = tuple[str, int, int]
"""(object, seed, shard)."""

_BLOCK_BYTES = 1 << 20
"""Bytes that are read and digested at a time."""


Memory = mmap.mmap | FileBytes
"""A map, or its substitute on file systems that cannot map files."""


@dataclass(frozen=True)
class MappedObject:
    """One object in memory."""

    memory: Memory
    """The map itself, for advice to the kernel."""
    data: Bytes | FileBytes
    """uint8 (file bytes,), read-only view of the file."""
    places: Mapping[str, Places]
    """Where each sample lies, by array."""


def bytes_of(memory: Memory) -> Bytes | FileBytes:
    """Content of an object's memory: uint8 (file bytes,), read-only."""
    return memory if isinstance(memory, FileBytes) else np.frombuffer(memory, dtype=np.uint8)


def map_file(path: Path, stored: StoredObject, *, check_digest: bool) -> Memory:
    """Map the file of an object after checking it against its receipt.

    The digest is computed from bytes that are read, not mapped: a failing disk then gives an error, while touching a
    map would kill the process.

    Raises:
        IntegrityError: the file is missing, has another size, or (``check_digest``) the wrong digest.
        AccessError: the file cannot be accessed.
    """
    try:
        with path.open("rb") as handle:
            status = os.fstat(handle.fileno())
            if status.st_size != stored.bytes:
                raise IntegrityError(
                    f"{path} (array {stored.array!r}): {status.st_size} bytes, its receipt lists {stored.bytes}: "
                    f"the object is truncated or was replaced; {RESUME}"
                )
            if check_digest and (found := digest_file(handle)) != stored.digest:
                raise IntegrityError(
                    f"{path} (array {stored.array!r}): the digest of its bytes is {found}, its receipt lists "
                    f"{stored.digest}: the object was changed or damaged; {REPAIR}"
                )
            try:
                return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:  # ENODEV; EACCES or EINVAL of some FUSE file systems
                memory = FileBytes(path, handle.fileno(), status.st_size)
                note_unmapped(path, status.st_dev, error)
                return memory
    except ABSENT as error:
        raise IntegrityError(
            f"{path} (array {stored.array!r}): cannot be opened: {os_reason(error)}; {RESUME}"
        ) from error
    except OSError as error:
        raise access_error(error, path) from error
    except ValueError as error:  # an empty file, or a path with a zero byte
        raise IntegrityError(f"{path} (array {stored.array!r}): cannot be mapped: {error}; {REPAIR}") from error


def digest_file(handle: BinaryIO, on_block: Callable[[int], object] = lambda count: None) -> str:
    """Digest of a file's bytes from its position on, ``sha256:...``.

    Args:
        handle: open for reading.
        on_block: called with the number of bytes of each block.

    Raises:
        OSError: the file cannot be read.
    """
    hasher, block = hashlib.sha256(), memoryview(bytearray(_BLOCK_BYTES))
    while count := handle.readinto(block):  # type: ignore[attr-defined]  # BinaryIO does not declare it
        hasher.update(block[:count])
        on_block(count)
    return DIGEST_PREFIX + hasher.hexdigest()


class MapPool:
    """Mapped objects by key; the least recently used are closed first. Thread-safe.

    Python keeps a file descriptor open for each map, so their number stays below half of the open-file limit, which
    is raised to its hard value first.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit or max(_raised_file_limit() // 2, 16)
        self._open: collections.OrderedDict[Key, MappedObject] = collections.OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: Key) -> MappedObject | None:
        """The object of (name, seed, shard) if it is mapped; it becomes the most recently used."""
        with self._lock:
            found = self._open.get(key)
            if found is not None:
                self._open.move_to_end(key)
            return found

    def add(self, key: Key, mapped: MappedObject) -> None:
        """Add an object and drop the least recently used ones; their maps close after the last read."""
        with self._lock:
            self._open[key] = mapped
            while len(self._open) > self._limit:
                self._open.popitem(last=False)

    def drop(self, key: Key) -> None:
        """Drop an object, if it is mapped; its map closes after the last read."""
        with self._lock:
            self._open.pop(key, None)

    def __len__(self) -> int:
        return len(self._open)


def _raised_file_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 1 << 16) if hard != resource.RLIM_INFINITY else 1 << 16
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft
