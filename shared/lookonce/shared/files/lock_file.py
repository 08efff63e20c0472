"""A lock for file systems without locks: a file that only one process can create, and that names this process.

If the holder was killed, a process of the same machine detects it and takes over. A process of another machine cannot
detect it, so the error asks the user.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

from lookonce.shared.errors import BusyError, LookonceError
from lookonce.shared.faults.os_errors import access_error, storage_error
from lookonce.shared.files.atomic import TEMPORARY_MARK
from lookonce.shared.files.process_identity import is_running, this_process

HOLDER_FILE = ".lock-holder"
"""Name of the file in the locked folder; unlocking removes it."""


@contextlib.contextmanager
def holder_file(folder: Path, busy: LookonceError) -> Generator[None, None, None]:
    """Lock an existing folder for this process.

    Args:
        folder: the folder to lock.
        busy: raised if another running process of this machine has locked it.

    Raises:
        BusyError: a process of another machine has locked it; it may have been killed.
        StorageError: the file cannot be created.
    """
    path, own = folder / HOLDER_FILE, {**this_process(), "id": uuid.uuid4().hex}
    while not _created(path, own):
        there = _holder(path)
        if there is None:  # unlocked meanwhile
            continue
        if there.get("place") != own["place"]:
            raise BusyError(
                f"{folder}: process {there.get('process')} on {there.get('host')} has been writing here since "
                f"{there.get('since')}, and this file system has no locks that would tell whether it still runs; wait "
                f"for it, or choose another --out, or, if it was killed, remove {path} and run the same command again"
            )
        if is_running(there):
            raise busy
        _take_over(path, there)
    try:
        yield
    finally:
        if os.getpid() == own["process"] and (_holder(path) or {}).get("id") == own["id"]:
            with contextlib.suppress(OSError):
                path.unlink()


def _created(path: Path, own: dict[str, Any]) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    except OSError as error:
        raise storage_error(error, path, "creating a lock") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(own, file)
    return True


def _holder(path: Path) -> dict[str, Any] | None:
    """Content of the file; None if it does not exist."""
    for patience in (0.2, 0.8, 0.0):  # its creator writes the content a moment later
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise access_error(error, path) from error
        except ValueError:
            time.sleep(patience)
            continue
        return found if isinstance(found, dict) else {}
    return {}  # its creator was killed before writing the content


def _take_over(path: Path, dead: dict[str, Any]) -> None:
    """Remove the file of a dead process, unless another process was faster and created its own."""
    aside = path.with_name(f"{path.name}{TEMPORARY_MARK}{uuid.uuid4().hex[:12]}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if _holder(aside) == dead:
            aside.unlink()
        else:
            aside.rename(path)
