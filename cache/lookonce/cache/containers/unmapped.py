"""Bytes of an object on a file system that cannot map files into memory: each slice is read on demand."""

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
_noted: set[int] = set()
"""Devices for which the note was printed."""


class FileBytes:
    """The bytes of a file, sliced like a uint8 array. Each slice is read from the file. Thread-safe.

    Args:
        path: the file, for messages.
        descriptor: descriptor of the open file; it is duplicated.
        size: size of the file in bytes.
    """

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self._path, self._size, self._descriptor = path, size, os.dup(descriptor)
        weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        """Bytes of a slice, uint8 (bytes,).

        Raises:
            AccessError: the file cannot be read.
            IntegrityError: the file became shorter.
        """
        start, stop, step = part.indices(self._size)
        read = bytearray()
        try:
            while len(read) < stop - start:
                piece = os.pread(self._descriptor, stop - start - len(read), start + len(read))
                if not piece:
                    raise IntegrityError(f"{self._path}: the file ends before byte {stop}: it was truncated; {RESUME}")
                read += piece
        except OSError as error:
            raise access_error(error, self._path) from error
        return np.frombuffer(read, dtype=np.uint8)[::step]

    @property
    def data(self) -> FileBytes:
        """The same object, as ``data`` of a numpy array is its memory."""
        return self

    def tobytes(self) -> bytes:
        """All bytes."""
        return self[:].tobytes()

    def madvise(self, advice: int, start: int = 0, length: int = 0) -> None:
        """Like ``mmap.madvise``, by ``posix_fadvise``."""
        os.posix_fadvise(self._descriptor, start, length, _FILE_ADVICE[advice])


def note_unmapped(path: Path, device: int, error: OSError) -> None:
    """Print a note, once per file system, that objects are read instead of mapped."""
    if device not in _noted:
        _noted.add(device)
        print(
            f"note: {path}: its file system does not map files into memory: {os_reason(error)}; objects are read "
            "instead, with the same values, but more slowly",
            file=sys.stderr,
            flush=True,
        )
