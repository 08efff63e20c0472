"""One writer per folder: a lock that the kernel releases when its process dies, or a file if there are no locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import IO

from lookonce.shared.errors import LookonceError
from lookonce.shared.faults.os_errors import os_reason, storage_error
from lookonce.shared.files.lock_file import HOLDER_FILE, holder_file

LOCK_FILE = ".lock"
"""Name of the lock file in the locked folder; it is empty and stays after unlocking."""

LOCK_FILES = frozenset({LOCK_FILE, HOLDER_FILE})
"""Files of a folder that are not content."""

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
"""Errors of flock on file systems without locks."""

_held: set[IO[str]] = set()


def _leave_to_parent() -> None:
    """Close a forked child's copies, which would keep the lock after the parent's death."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_leave_to_parent)


@contextlib.contextmanager
def exclusive_folder(folder: Path, busy: LookonceError) -> Generator[None, None, None]:
    """Lock a folder (created if missing) for this process, by flock or by a file that names the holder.

    Args:
        folder: the folder to lock.
        busy: raised if another process has locked it.

    Raises:
        BusyError: the file system has no locks, and a process of another machine has locked the folder; it may have
            been killed.
        StorageError: the folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK_FILE).open("a")
    except OSError as error:
        raise storage_error(error, folder, "opening the folder for writing") from error
    with handle, contextlib.ExitStack() as held:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (folder / HOLDER_FILE).exists():  # of a machine where the same file system has no locks
                held.enter_context(holder_file(folder, busy))
        except BlockingIOError as error:
            raise busy from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise storage_error(error, folder / LOCK_FILE, "locking the folder") from error
            held.enter_context(holder_file(folder, busy))
            print(
                f"note: {folder}: its file system has no locks: {os_reason(error)}; the file {HOLDER_FILE} in it "
                "keeps other writers out instead",
                file=sys.stderr,
                flush=True,
            )
        _held.add(handle)
        try:
            yield
        finally:
            _held.discard(handle)
