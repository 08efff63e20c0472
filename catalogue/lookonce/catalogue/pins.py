"""Pins keep a cache from being deleted: a person sets one for a time, a training run holds one while it lives.

A pin is a file ``pins/NAME.json`` in the cache, where whoever deletes it finds it, with any catalogue. The pin of a run
names its process. On the same machine the process itself tells whether it lives; elsewhere the file's time of change
does, which the run renews every minute. The folder stays when its last pin is gone: its time of change is that of the
last use, also by people with another catalogue.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from lookonce.catalogue.catalogue import enter_cache
from lookonce.catalogue.entry import time_now
from lookonce.shared.errors import StorageError, UsageError
from lookonce.shared.faults.os_errors import access_error, storage_error
from lookonce.shared.files.atomic import TEMPORARY_MARK, write_json
from lookonce.shared.files.process_identity import is_running, this_place, this_process

FOLDER = "pins"
RENEWED_EVERY = 60.0
"""Seconds between renewals of a run's pin."""
LOST_AFTER = 1800.0
"""Seconds without renewal after which a run on another machine counts as ended. Clocks may differ by some minutes."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One pin of a cache."""

    file: Path
    by: str
    """Who needs the cache."""
    until: str | None
    """Last day, YYYY-MM-DD; None: until it is taken away, or until the process ends."""
    process: dict[str, Any] | None
    """Identity of the process of a run; None for the pin of a person."""
    renewed: float
    """Time of change of the file, seconds since 1970."""

    @property
    def holds(self) -> bool:
        """Whether the cache is still needed."""
        if self.until is not None and datetime.now(UTC).date().isoformat() > self.until:
            return False
        if self.process is None:
            return True
        if self.process.get("place") == this_place():
            return is_running(self.process)
        return time.time() - self.renewed < LOST_AFTER

    def __str__(self) -> str:
        """Who holds it, and until when."""
        if self.process is not None:
            return f"{self.by} (process {self.process.get('process')} on {self.process.get('host')})"
        return self.by if self.until is None else f"{self.by} until {self.until}"


def pins_of(root: Path) -> list[Pin]:
    """All pins of a cache, by name. A file that cannot be read as a pin is one that holds: it may be a newer kind.

    Raises:
        AccessError: the folder of pins cannot be listed.
    """
    try:
        files = sorted(path for path in (root / FOLDER).iterdir() if path.suffix == ".json")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise access_error(error, root / FOLDER) from error
    return [pin for file in files if TEMPORARY_MARK not in file.name and (pin := _read(file)) is not None]


def held_pins(root: Path) -> list[Pin]:
    """The pins of a cache that hold."""
    return [pin for pin in pins_of(root) if pin.holds]


def pin_cache(root: Path, by: str, until: str | None = None) -> Pin:
    """Pin a cache, or change the last day of the pin of that name.

    Args:
        root: the cache folder.
        by: name of the pin: letters, digits, dots, hyphens, underscores.
        until: last day, YYYY-MM-DD, in UTC; None: until ``unpin_cache``.

    Raises:
        UsageError: the name or the day is malformed, or the day is over.
        StorageError: the pin cannot be written.
    """
    if not _NAME.fullmatch(by):
        raise UsageError(f"--by {by}: expected up to 64 letters, digits, dots, hyphens or underscores")
    if until is not None:
        _require_day(until)
    file = root / FOLDER / f"{by}.json"
    write_json(file, {"by": by, "until": until, "since": time_now(), "process": None})
    return Pin(file=file, by=by, until=until, process=None, renewed=time.time())


def unpin_cache(root: Path, by: str) -> None:
    """Take away the pin of that name.

    Raises:
        UsageError: there is no such pin; the message lists those that there are.
        StorageError: the operating system refused.
    """
    pins = {pin.by: pin for pin in pins_of(root) if pin.process is None}
    if by not in pins:
        raise UsageError(f"{root}: no pin of {by}; found {', '.join(sorted(pins)) or 'none'}")
    try:
        pins[by].file.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, pins[by].file, "removing a pin") from error


@contextlib.contextmanager
def reading(roots: Sequence[Path], by: str) -> Generator[None, None, None]:
    """Hold a pin on some caches, and mark them as used in the user's catalogue."""
    with pinned(roots, by):
        for root in roots:
            enter_cache(root, changed=False)
        yield


@contextlib.contextmanager
def pinned(roots: Sequence[Path], by: str) -> Generator[None, None, None]:
    """Hold a pin on some caches, renewed in a thread. Caches that cannot be written are used without a pin.

    Args:
        roots: the cache folders.
        by: who needs them, for messages.
    """
    held: list[Path] = []
    for root in roots:
        file = root / FOLDER / f"run-{uuid.uuid4().hex[:12]}.json"
        try:
            write_json(file, {"by": by, "until": None, "since": time_now(), "process": this_process()})
        except StorageError as error:
            print(f"note: {root} is not pinned while it is read: {error}", file=sys.stderr, flush=True)
            continue
        held.append(file)
    ended, owner = threading.Event(), os.getpid()
    renewal = threading.Thread(target=_renew, args=(held, ended), name="lookonce-pins", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        if os.getpid() == owner:  # a forked child must not take away its parent's pins
            for file in held:
                with contextlib.suppress(OSError):
                    file.unlink()


def last_pinned(root: Path) -> float:
    """When a pin of a cache was last set or taken away, seconds since 1970; 0.0: never."""
    with contextlib.suppress(FileNotFoundError):
        return (root / FOLDER).stat().st_mtime
    return 0.0


def remove_dead_pins(root: Path) -> None:
    """Delete pins of runs that ended without removing them."""
    for pin in pins_of(root):
        if pin.process is not None and not pin.holds:
            with contextlib.suppress(OSError):
                pin.file.unlink()


def _renew(files: Sequence[Path], ended: threading.Event) -> None:
    while not ended.wait(RENEWED_EVERY):
        for file in files:
            with contextlib.suppress(OSError):
                os.utime(file)


def _read(file: Path) -> Pin | None:
    try:
        document, renewed = json.loads(file.read_bytes()), file.stat().st_mtime
    except FileNotFoundError:  # taken away in the meantime
        return None
    except OSError as error:
        raise access_error(error, file) from error
    except ValueError:
        document, renewed = None, time.time()
    if not isinstance(document, dict):
        return Pin(file=file, by=f"{file.name}, which cannot be read", until=None, process=None, renewed=renewed)
    process, until = document.get("process"), document.get("until")
    return Pin(
        file=file,
        by=str(document.get("by", file.stem)),
        until=until if isinstance(until, str) else None,
        process=process if isinstance(process, dict) else None,
        renewed=renewed,
    )


def _require_day(text: str) -> None:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--until {text}: expected a day as YYYY-MM-DD") from None
    if day.isoformat() != text:
        raise UsageError(f"--until {text}: expected a day as YYYY-MM-DD")
    if day < datetime.now(UTC).date():
        raise UsageError(f"--until {text}: this day is over")
