"""One writer at a time: a lock the kernel releases when its process dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lookonce.shared.atomic import storage_error
from lookonce.shared.errors import LookonceError

LOCK_FILE = ".lock"
"""Name of the lock's file in the folder it guards; it has no content and stays behind."""


_held: set[IO[str]] = set()


def _leave_to_parent() -> None:
    """A forked child would keep its parent's lock alive after the parent's death: it closes its copies."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_leave_to_parent)


@contextlib.contextmanager
def exclusive_folder(folder: Path, busy: LookonceError) -> Iterator[None]:
    """Hold a folder (made when missing) for this process, with flock.

    Args:
        folder: what is guarded.
        busy: raised when another process holds it.

    Raises:
        StorageError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK_FILE).open("a")
    except OSError as error:
        raise storage_error(error, folder, "opening the folder for writing") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy from error
        _held.add(handle)
        try:
            yield
        finally:
            _held.discard(handle)
