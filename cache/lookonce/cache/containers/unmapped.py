"""An object's bytes where a file system does not map files into memory: read when they are asked for."""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.advice import RESUME
from lookonce.shared.errors import IntegrityError
from lookonce.shared.faults.os_errors import access_error, os_reason

_FILE_ADVICE = {
    mmap.MADV_NORMAL: os.POSIX_FADV_NORMAL,
    mmap.MADV_RANDOM: os.POSIX_FADV_RANDOM,
    mmap.MADV_WILLNEED: os.POSIX_FADV_WILLNEED,
}
_told: set[int] = set()
"""Devices of which it was told."""


class FileBytes:
    """A file's bytes, sliced like a uint8 array; each slice is read from the file. Thread-safe.

    Args:
        path: the file, for messages.
        descriptor: it, open for reading; duplicated.
        size: its bytes.
    """

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self._path, self._size, self._descriptor = path, size, os.dup(descriptor)
        weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        """Bytes of a slice, uint8 (bytes,).

        Raises:
            AccessError: the operating system does not give them out.
            IntegrityError: the file has become shorter.
        """
        start, stop, step = part.indices(self._size)
        read = bytearray()
        try:
            while len(read) < stop - start:
                piece = os.pread(self._descriptor, stop - start - len(read), start + len(read))
                if not piece:
                    raise IntegrityError(f"{self._path}: it ends before byte {stop}: it was truncated; {RESUME}")
                read += piece
        except OSError as error:
            raise access_error(error, self._path) from error
        return np.frombuffer(read, dtype=np.uint8)[::step]

    @property
    def data(self) -> FileBytes:
        """What a numpy array has under this name: its memory."""
        return self

    def tobytes(self) -> bytes:
        """All bytes."""
        return self[:].tobytes()

    def madvise(self, advice: int, start: int = 0, length: int = 0) -> None:
        """As ``mmap.madvise`` does, with the file's own call."""
        os.posix_fadvise(self._descriptor, start, length, _FILE_ADVICE[advice])


def tell_unmapped(path: Path, device: int, error: OSError) -> None:
    """Tell once of each file system that objects on it are read instead of mapped."""
    if device not in _told:
        _told.add(device)
        print(
            f"note: {path}: its file system does not map files into memory: {os_reason(error)}; objects are read "
            "instead, which gives the same values more slowly",
            file=sys.stderr,
            flush=True,
        )
