"""Files that appear completely or not at all: written under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO

from lookonce.shared.faults.os_errors import storage_error

TEMPORARY_MARK = ".tmp-"
"""Part of the name of every temporary file. Such files are never content and may be deleted if no writer runs."""


@contextlib.contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Generator[BinaryIO, None, None]:
    """Open a temporary file beside ``path`` for writing; on a clean exit it is synced and renamed to ``path``.

    On an exception the temporary file is removed and ``path`` is unchanged.

    Args:
        path: the file.
        durable: False leaves out the sync: after a power failure the file may have other bytes.

    Raises:
        StorageError: the operating system refused (full disk, read-only, missing folder).
    """
    temporary = path.with_name(f"{path.name}{TEMPORARY_MARK}{uuid.uuid4().hex[:12]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            if durable:
                os.fsync(handle.fileno())
        temporary.replace(path)
        if durable:
            sync_directory(path.parent)
    except OSError as error:
        raise storage_error(error, path, "writing") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def json_bytes(document: Any) -> bytes:
    """A document as the bytes of its file: UTF-8 JSON, sorted keys, two-space indent, a line feed at the end.

    Raises:
        ValueError: the document contains NaN, infinity or lone surrogates, which are not JSON.

    >>> json_bytes({"b": 1, "a": []})
    b'{\\n  "a": [],\\n  "b": 1\\n}\\n'
    """
    text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"


def write_json(path: Path, document: Any) -> None:
    """Write the ``json_bytes`` of a document by rename."""
    write_bytes(path, json_bytes(document))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file by rename."""
    with atomic_file(path) as handle:
        handle.write(data)


def sync_directory(directory: Path) -> None:
    """Flush a directory's entries to disk, if the file system supports it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems do not sync directories
        pass
    finally:
        os.close(descriptor)
