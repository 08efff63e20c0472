"""An object being written: a temporary file whose SHA-256 and length are known at every moment."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.canonical import DIGEST_PREFIX
from lookonce.shared.files.atomic import TEMPORARY_MARK, sync_directory
from lookonce.storage_schemas.receipt import StoredObject

_HASHERS = ThreadPoolExecutor(max(2, len(os.sched_getaffinity(0))), thread_name_prefix="lookonce-digest")
"""Digesting takes as long as writing does, and both release the GIL; objects of several shards are digested at once."""


class ObjectFile:
    """One object, written under a temporary name beside its place."""

    def __init__(self, root: Path, name: str, path: str) -> None:
        self._name, self._path, self.target = name, path, root / path
        self._temporary = self.target.with_name(f"{self.target.name}{TEMPORARY_MARK}{uuid.uuid4().hex[:12]}")
        self._hasher = hashlib.sha256()
        self.length = 0
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._handle: BinaryIO = self._temporary.open("wb", buffering=0)

    def write(self, data: bytes) -> None:
        """Append and digest, at the same time."""
        write_together([(self, data)])

    def finish(self) -> StoredObject:
        """Sync and rename into place."""
        os.fsync(self._handle.fileno())
        self._handle.close()
        self._temporary.replace(self.target)
        sync_directory(self.target.parent)
        digest = DIGEST_PREFIX + self._hasher.hexdigest()
        return StoredObject(array=self._name, path=self._path, bytes=self.length, digest=digest)

    def discard(self) -> None:
        """Remove the temporary file; harmless after ``finish``."""
        self._handle.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def _put(self, data: memoryview) -> None:
        rest = data
        while rest:  # a file system that runs full, and Linux beyond 2 GiB, take a part and raise nothing
            rest = rest[self._handle.write(rest) :]
        self.length += len(data)

    def _digest(self, data: memoryview) -> None:
        self._hasher.update(data)


def write_together(parts: Sequence[tuple[ObjectFile, bytes | NDArray[Any]]]) -> None:
    """Append to several files, each at most once, while other threads digest; returns when all is done.

    Args:
        parts: file, and bytes or a C-contiguous array.

    Raises:
        OSError: the operating system refused a write.
    """
    views = [(file, _flat(data)) for file, data in parts]
    digesting: list[Future[None]] = [_HASHERS.submit(file._digest, view) for file, view in views]
    try:
        for file, view in views:
            file._put(view)
    finally:
        wait(digesting)  # the caller may reuse its memory as soon as this returns


def _flat(data: bytes | NDArray[Any]) -> memoryview:
    return memoryview(data) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8).data
