"""Messages for errors of the operating system: the file, the name of the errno, and advice.

An error of reading does not mean that a file is damaged, so no message says so.
"""

from __future__ import annotations

import errno
from pathlib import Path

from lookonce.shared.errors import AccessError, StorageError

ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""Errors that mean a missing file. Any other error leaves open whether the file exists."""

_AGAIN = "then run the same command again"
_FULL = "the disk is full; what was committed before stays valid: make room, " + _AGAIN
_QUOTA = (
    "this user's or project's disk quota is used up (quota -s); what was committed before stays valid: make room or "
    "have the quota raised, then run the same command again"
)
_TOO_MANY_FILES = (
    "too many files are open, in this process or on this machine: raise the limit (ulimit -n 65536), or close other "
    "programs, then run the same command again"
)
_NOT_WRITABLE = "the place is not writable for this user; choose another folder or change its permissions"
_READ_ONLY = "the file system is mounted read-only; choose another folder, or mount it for writing"
_REMOUNT = "the network or FUSE file system has lost its connection: mount it again, then run the same command again"
_DISK = (
    "the disk or its network reported an error: check dmesg or the file server's log, mount it again or copy "
    "the folder to another disk, then run the same command again"
)

_ALWAYS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _QUOTA,
    errno.EMFILE: _TOO_MANY_FILES,
    errno.ENFILE: _TOO_MANY_FILES,
    errno.ENOMEM: "memory is short: close other programs or use a machine with more, then run the same command again",
    errno.EIO: _DISK,
    errno.EREMOTEIO: _DISK,
    **dict.fromkeys(
        (
            errno.ESTALE,
            errno.ETIMEDOUT,
            errno.ENOTCONN,
            errno.ECONNABORTED,
            errno.ECONNREFUSED,
            errno.ECONNRESET,
            errno.EHOSTDOWN,
            errno.EHOSTUNREACH,
            errno.ENETDOWN,
            errno.ENETUNREACH,
            errno.ENODEV,
            errno.ENXIO,
            errno.ESHUTDOWN,
        ),
        _REMOUNT,
    ),
}
"""Advice by errno, for reading and writing alike."""

_WRITING = {errno.EACCES: _NOT_WRITABLE, errno.EPERM: _NOT_WRITABLE, errno.EROFS: _READ_ONLY}
_NOT_READABLE = (
    "this user may not read it: change the permissions of the file and the folders above it, or run as another user, "
    "then run the same command again"
)
_READING = {errno.EACCES: _NOT_READABLE, errno.EPERM: _NOT_READABLE}


def os_reason(error: OSError) -> str:
    """Message of the operating system with the name of the errno.

    >>> import os
    >>> os_reason(OSError(errno.ESTALE, os.strerror(errno.ESTALE)))
    'Stale file handle (ESTALE)'
    """
    name = errno.errorcode.get(error.errno or 0)
    words = " ".join(str(error.strerror or error).split()) or type(error).__name__
    return f"{words} ({name})" if name else words


def storage_error(error: OSError, path: Path, doing: str) -> StorageError:
    """The error for an operating-system error while ``doing`` something that changes ``path``."""
    advice = {**_ALWAYS, **_WRITING}.get(
        error.errno or 0, "check the path and the disk, then run the same command again"
    )
    return StorageError(f"{path}: {doing} failed: {os_reason(error)}: {advice}")


def access_error(error: OSError, path: Path | str) -> AccessError:
    """The error for an operating-system error while reading ``path``."""
    return AccessError(f"{path}: cannot be read: {access_problem(error)}; {access_advice(error)}")


def access_problem(error: OSError) -> str:
    """Description of an operating-system error while reading, without file and advice."""
    return f"{os_reason(error)}, which does not mean that it is damaged"


def access_advice(error: OSError) -> str:
    """Advice for an operating-system error while reading."""
    if isinstance(error, ABSENT) or error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return "check the path, then run the same command again"
    return {**_ALWAYS, **_READING}.get(error.errno or 0, "check its file system, then run the same command again")
