"""A lock for file systems that have none: a file that only one process can make, and that says which one made it.

Where its holder was killed, a process of the same machine sees that and takes the folder over; of another machine
nothing can be known, so a person is asked.
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

HOLDER_FILE = ".lock-holder"
"""Name of the file in the folder it guards; it is gone when the folder is free."""


@contextlib.contextmanager
def holder_file(folder: Path, busy: LookonceError) -> Generator[None, None, None]:
    """Hold an existing folder for this process.

    Args:
        folder: what is guarded.
        busy: raised when another living process of this machine holds it.

    Raises:
        BusyError: a process of another machine holds it, or was killed while it did.
        StorageError: the file cannot be made.
    """
    path, own = folder / HOLDER_FILE, {**_this_process(), "id": uuid.uuid4().hex}
    while not _made(path, own):
        there = _holder(path)
        if there is None:  # given back meanwhile
            continue
        if there.get("place") != own["place"]:
            raise BusyError(
                f"{folder}: process {there.get('process')} on {there.get('host')} has been writing here since "
                f"{there.get('since')}, and this file system has no locks that would tell whether it still runs; wait "
                f"for it, or choose another --out, or, if it was killed, remove {path} and run the same command again"
            )
        if _started(there.get("process")) == there.get("started"):
            raise busy
        _take_over(path, there)
    try:
        yield
    finally:
        if os.getpid() == own["process"] and (_holder(path) or {}).get("id") == own["id"]:
            with contextlib.suppress(OSError):
                path.unlink()


def _made(path: Path, own: dict[str, Any]) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    except OSError as error:
        raise storage_error(error, path, "making a lock") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(own, file)
    return True


def _holder(path: Path) -> dict[str, Any] | None:
    """What the file says; None where there is none."""
    for patience in (0.2, 0.8, 0.0):  # whoever makes it fills it a moment later
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
    return {}  # killed between making and filling it, who knows where


def _take_over(path: Path, dead: dict[str, Any]) -> None:
    """Remove the file of a dead process, unless another one has been quicker and made its own."""
    aside = path.with_name(f"{path.name}{TEMPORARY_MARK}{uuid.uuid4().hex[:12]}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if _holder(aside) == dead:
            aside.unlink()
        else:
            aside.rename(path)


def _this_process() -> dict[str, Any]:
    """Who this is: the numbers of processes mean something in one namespace of one start of one machine."""
    host = os.uname().nodename
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        place = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        place = host
    return {
        "host": host,
        "place": place,
        "process": os.getpid(),
        "started": _started(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _started(process: Any) -> str | None:
    """When a process of this machine was started, in ticks since the boot; None when none of this number lives."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else fields[18]
