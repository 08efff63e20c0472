"""Objects mapped into memory: opened once, checked, closed again when too many are open."""

from __future__ import annotations

import collections
import errno
import mmap
import resource
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.advice import REPAIR, RESUME
from lookonce.shared.canonical import digest_bytes
from lookonce.shared.errors import IntegrityError, StorageError
from lookonce.storage_schemas.receipt import StoredObject

Bytes = NDArray[np.uint8]
Key = tuple[str, int, int]
"""(object, seed, shard)."""


@dataclass(frozen=True)
class MappedObject:
    """One object in memory."""

    memory: mmap.mmap
    """The map itself, for advice to the kernel."""
    data: Bytes
    """uint8 (file bytes,), read-only, backed by the file."""
    offsets: Mapping[str, NDArray[np.int64]]
    """By array: int64 (shard size,), where each sample starts; -1 for a hole."""


def map_object(root: Path, stored: StoredObject, *, check_digest: bool) -> mmap.mmap:
    """Map an object's file after checking it against its receipt.

    Raises:
        IntegrityError: the file is missing, has another size, or (``check_digest``) other bytes.
        StorageError: this process has too many open files.
    """
    path = root / stored.path
    try:
        with path.open("rb") as handle:
            size = path.stat().st_size
            if size != stored.bytes:
                raise IntegrityError(
                    f"{path} (array {stored.array!r}): {size} bytes, its receipt says {stored.bytes}: "
                    f"the object is truncated or was replaced; {RESUME}"
                )
            mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise StorageError(f"{path}: {error.strerror}; raise the limit of open files (ulimit -n)") from error
        raise IntegrityError(
            f"{path} (array {stored.array!r}): cannot be opened: {error.strerror or error}; {RESUME}"
        ) from error
    except ValueError as error:  # an empty file, or a path with a zero byte
        raise IntegrityError(f"{path} (array {stored.array!r}): cannot be mapped: {error}; {REPAIR}") from error
    if check_digest and (found := digest_bytes(memoryview(mapped))) != stored.digest:
        raise IntegrityError(
            f"{path} (array {stored.array!r}): the digest of its bytes is {found}, its receipt says {stored.digest}: "
            f"the object was changed or damaged; {REPAIR}"
        )
    return mapped


class MapPool:
    """Mapped objects by key, least recently used closed first; thread-safe.

    Python keeps a file descriptor open for each map, so their number stays under half of the open-file limit (which
    is raised to its hard value first).
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit or max(_raised_file_limit() // 2, 16)
        self._open: collections.OrderedDict[Key, MappedObject] = collections.OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: Key) -> MappedObject | None:
        """The object of (name, seed, shard) if it is mapped; it is then the most recently used."""
        with self._lock:
            found = self._open.get(key)
            if found is not None:
                self._open.move_to_end(key)
            return found

    def add(self, key: Key, mapped: MappedObject) -> None:
        """Take an object in, and let go of those used least recently; their maps close when nobody reads them."""
        with self._lock:
            self._open[key] = mapped
            while len(self._open) > self._limit:
                self._open.popitem(last=False)

    def __len__(self) -> int:
        return len(self._open)


def _raised_file_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 1 << 16) if hard != resource.RLIM_INFINITY else 1 << 16
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft
