"""What the operating system refuses, as sentences: the errno by name, the file, and what to do about it.

Trouble with reading says nothing about the bytes of a file, so none of these sentences calls it damaged.
"""

from __future__ import annotations

import errno
from pathlib import Path

from lookonce.shared.errors import AccessError, StorageError

ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""What the operating system says where there is no such file; all else tells nothing of whether there is one."""

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
_REMOUNT = (
    "the network or FUSE file system has lost touch with the file: mount it again, then run the same command again"
)
_DISK = (
    "the disk or the network behind it gave an error: look at dmesg or the file server's log, mount it again or copy "
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
"""Advice that is the same for reading and writing, by errno."""

_WRITING = {errno.EACCES: _NOT_WRITABLE, errno.EPERM: _NOT_WRITABLE, errno.EROFS: _READ_ONLY}
_NOT_READABLE = (
    "this user may not read it: change the permissions of the file and the folders above it, or run as the user who "
    "may, then run the same command again"
)
_READING = {errno.EACCES: _NOT_READABLE, errno.EPERM: _NOT_READABLE}


def os_reason(error: OSError) -> str:
    """The operating system's words and the errno's name.

    >>> import os
    >>> os_reason(OSError(errno.ESTALE, os.strerror(errno.ESTALE)))
    'Stale file handle (ESTALE)'
    """
    name = errno.errorcode.get(error.errno or 0)
    words = " ".join(str(error.strerror or error).split()) or type(error).__name__
    return f"{words} ({name})" if name else words


def storage_error(error: OSError, path: Path, doing: str) -> StorageError:
    """Our sentence for an operating-system error met while ``doing`` something to ``path`` that changes it."""
    advice = {**_ALWAYS, **_WRITING}.get(
        error.errno or 0, "check the path and the disk, then run the same command again"
    )
    return StorageError(f"{path}: {doing} failed: {os_reason(error)}: {advice}")


def access_error(error: OSError, path: Path | str) -> AccessError:
    """Our sentence for an operating-system error met while reading ``path``."""
    return AccessError(f"{path}: cannot be read: {access_problem(error)}; {access_advice(error)}")


def access_problem(error: OSError) -> str:
    """What an operating-system error met while reading tells, without the file and the advice."""
    return f"{os_reason(error)}, which does not mean that it is damaged"


def access_advice(error: OSError) -> str:
    """What to do about an operating-system error met while reading."""
    if isinstance(error, ABSENT) or error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return "check the path, then run the same command again"
    return {**_ALWAYS, **_READING}.get(
        error.errno or 0, "check the file system that it lies on, then run the same command again"
    )
