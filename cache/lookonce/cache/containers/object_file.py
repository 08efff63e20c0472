"""An object being written: a temporary file with a running SHA-256 and length."""

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
"""Digests of several objects are computed at once: this takes as long as writing, and both release the GIL."""


class ObjectFile:
    """One object, written under a temporary name in its folder."""

    def __init__(self, root: Path, name: str, path: str) -> None:
        self._name, self._path, self.target = name, path, root / path
        self._temporary = self.target.with_name(f"{self.target.name}{TEMPORARY_MARK}{uuid.uuid4().hex[:12]}")
        self._hasher = hashlib.sha256()
        self.length = 0
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._handle: BinaryIO = self._temporary.open("wb", buffering=0)

    def write(self, data: bytes) -> None:
        """Append bytes; another thread updates the digest meanwhile."""
        write_together([(self, data)])

    def finish(self) -> StoredObject:
        """Sync, and rename to the final name."""
        os.fsync(self._handle.fileno())
        self._handle.close()
        self._temporary.replace(self.target)
        sync_directory(self.target.parent)
        digest = DIGEST_PREFIX + self._hasher.hexdigest()
        return StoredObject(array=self._name, path=self._path, bytes=self.length, digest=digest)

    def discard(self) -> None:
        """Remove the temporary file. It does nothing after ``finish``."""
        self._handle.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def append_bytes(self, data: memoryview) -> None:
        """Append bytes without updating the digest."""
        rest = data
        while rest:  # a full file system, and Linux beyond 2 GiB, write a part without an error
            rest = rest[self._handle.write(rest) :]
        self.length += len(data)

    def update_digest(self, data: memoryview) -> None:
        """Add appended bytes to the digest."""
        self._hasher.update(data)


def write_together(parts: Sequence[tuple[ObjectFile, bytes | NDArray[Any]]]) -> None:
    """Append to several files, each at most once, while other threads update the digests; wait for both.

    Args:
        parts: files, each with bytes or a C-contiguous array.

    Raises:
        OSError: the operating system refused a write.
    """
    views = [(file, _flat(data)) for file, data in parts]
    digesting: list[Future[None]] = [_HASHERS.submit(file.update_digest, view) for file, view in views]
    try:
        for file, view in views:
            file.append_bytes(view)
    finally:
        wait(digesting)  # the caller may reuse its memory as soon as this returns


def _flat(data: bytes | NDArray[Any]) -> memoryview:
    return memoryview(data) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8).data
