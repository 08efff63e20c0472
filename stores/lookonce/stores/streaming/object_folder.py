"""A folder of fetched objects, shared by all processes of a machine: one download of each, and eviction by last use.

``objects/ab/abcd...`` is named by the digest of its bytes, so caches, runs and seeds share what is equal. A process
needs an object as long as it has a hard link to it in its own folder below ``leases``, which it locks. Eviction deletes
objects without such a link, those first whose last use is longest ago. When a process is killed, the kernel unlocks its
folder of links, and the next process that makes room deletes it. Objects are written among the links of their process
and appear in ``objects`` complete, so an interrupted download leaves nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Generator
from pathlib import Path

from lookonce.shared.errors import BusyError, MachineError, StorageError
from lookonce.shared.faults.os_errors import storage_error
from lookonce.shared.files.atomic import TEMPORARY_MARK
from lookonce.shared.files.lock import exclusive_folder
from lookonce.shared.printing import bytes_text

VARIABLE = "LOOKONCE_CACHE_DIR"
"""Environment variable with the folder of fetched objects."""
LOCK_SECONDS = 30.0
"""Longest wait for another process that makes room; without its lock, some more may be evicted than necessary."""
RESERVED = "reserved"
"""File of a process with the bytes that it is about to fetch."""
_POLL = 0.02
_BUSY = BusyError("the process of this folder is alive")


def default_folder() -> Path:
    """The folder in LOOKONCE_CACHE_DIR, or ``lookonce/objects`` in the user's cache folder."""
    given = os.environ.get(VARIABLE, "").strip()
    if given:
        return Path(given).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "lookonce" / "objects"


class ObjectFolder:
    """The folder from the view of one process; thread-safe.

    Args:
        root: the folder; created if it is missing.
        limit: most bytes of objects; None for as many as the disk has room for.

    Raises:
        StorageError: the folder cannot be written, or its file system has no hard links.
    """

    def __init__(self, root: Path, limit: int | None) -> None:
        self.root, self.limit = root, limit
        self._lease, self._process = root / "leases" / uuid.uuid4().hex[:16], os.getpid()
        self._reserved, self._lock, self._held = 0, threading.Lock(), contextlib.ExitStack()
        self._noted = False
        try:
            for name in ("objects", "leases", "fetching"):
                (root / name).mkdir(parents=True, exist_ok=True)
            with self._alone():  # so that nobody takes the new folder for that of a dead process
                self._held.enter_context(exclusive_folder(self._lease, _BUSY))
                self._remove_dead_leases()
            self._require_links()
        except OSError as error:
            raise storage_error(error, root, "opening the folder of fetched objects") from error

    def path(self, digest: str) -> Path:
        """Where an object lies for this process, once it holds it."""
        return self._lease / _name(digest)

    def take(self, digest: str, size: int) -> bool:
        """Hold an object that the folder has; False if it has not.

        Args:
            digest: of the object.
            size: its bytes; an object of another size is deleted.
        """
        self.require_process()
        shared, own = self._shared(digest), self.path(digest)
        try:
            with contextlib.suppress(FileExistsError):
                os.link(shared, own)
            if own.stat().st_size != size:
                self.discard(digest)
                return False
            os.utime(own)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(error, shared, "linking an object") from error
        return True

    def has(self, digest: str, size: int) -> bool:
        """Whether the folder has an object of this size."""
        try:
            return self._shared(digest).stat().st_size == size
        except OSError:
            return False

    def share(self, digest: str) -> None:
        """Let others have an object that was written to ``path``."""
        shared = self._shared(digest)
        try:
            shared.parent.mkdir(exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.link(self.path(digest), shared)
        except OSError as error:
            raise storage_error(error, shared, "linking an object") from error

    def release(self, digest: str) -> None:
        """Release an object; it stays in the folder until the room is needed."""
        with contextlib.suppress(OSError):
            os.utime(self.path(digest))
        with contextlib.suppress(OSError):
            self.path(digest).unlink()

    def discard(self, digest: str) -> None:
        """Delete an object whose bytes are wrong."""
        for path in (self.path(digest), self._shared(digest)):
            with contextlib.suppress(OSError):
                path.unlink()

    @contextlib.contextmanager
    def fetching(self, digest: str) -> Generator[bool, None, None]:
        """Keep other threads and processes from fetching an object; False if one does so already."""
        with _locked(self.root / "fetching" / _name(digest), remove=True) as locked:
            yield locked

    def make_room(self, count: int, *, must: bool) -> bool:
        """Reserve room for objects, and evict others for it.

        Args:
            count: bytes.
            must: whether they are needed now, so that the limit may be exceeded.

        Returns:
            Whether the room is reserved; always, if ``must``.

        Raises:
            StorageError: ``must``, and the disk has too little room.
        """
        with self._alone(), self._lock:
            others = self._remove_dead_leases()
            total, unused = self._scan()
            reserved, spare = self._reserved + others, sum(size for _, size, _ in unused)
            over_limit = 0 if self.limit is None else total + reserved + count - self.limit
            over_disk = reserved + count - self._free()
            if max(over_limit, over_disk) > spare:
                if not must:
                    return False
                if over_disk > spare:
                    raise StorageError(
                        f"{self.root}: there is no room for fetched objects: {bytes_text(count)} are needed next, and "
                        f"the disk has {bytes_text(self._free())} free: make room, or name a folder of another disk "
                        "with --cache-dir, then run the same command again"
                    )
                self._note_over_limit()
            over = max(over_limit, over_disk)
            for _, size, path in sorted(unused):
                if over <= 0:
                    break
                with contextlib.suppress(OSError):
                    path.unlink()
                    over -= size
            self._write_reserved(count)
            return True

    def end_reservation(self, count: int) -> None:
        """Give back reserved room: the object is there, or it will not come."""
        with self._lock:
            self._write_reserved(-count)

    @property
    def room(self) -> int:
        """Bytes that objects may take: the limit, or what they take now and what is free."""
        total, _ = self._scan()
        room = total + self._free()
        return room if self.limit is None else min(room, self.limit)

    def close(self) -> None:
        """Release all objects."""
        if self.is_of_this_process:
            shutil.rmtree(self._lease, ignore_errors=True)
            self._held.close()

    @property
    def is_of_this_process(self) -> bool:
        """Whether this process opened the folder, and not one that has forked it."""
        return os.getpid() == self._process

    def require_process(self) -> None:
        """Refuse a forked child: its parent's folder is not its own, and threads that fetch are not copied.

        Raises:
            MachineError: this is another process.
        """
        if not self.is_of_this_process:
            raise MachineError(f"{self.root}: objects are fetched by another process; open the cache in this one")

    def _shared(self, digest: str) -> Path:
        name = _name(digest)
        return self.root / "objects" / name[:2] / name

    def _require_links(self) -> None:
        probe = self._lease / f"probe{TEMPORARY_MARK}"
        probe.touch()
        try:
            os.link(probe, probe.with_suffix(".linked"))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            raise StorageError(
                f"{self.root}: this file system has no hard links, which keep fetched objects from being deleted while "
                f"they are read: name a folder of a local disk with --cache-dir or {VARIABLE}"
            ) from error
        finally:
            probe.unlink()
            probe.with_suffix(".linked").unlink(missing_ok=True)

    def _scan(self) -> tuple[int, list[tuple[float, int, Path]]]:
        """Bytes of all objects, and last use, bytes and path of those that no process holds."""
        total, unused = 0, list[tuple[float, int, Path]]()
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / "objects") as folders:
            for folder in folders:
                with contextlib.suppress(OSError), os.scandir(folder) as entries:
                    for entry in entries:
                        with contextlib.suppress(FileNotFoundError):  # evicted in the meantime
                            status = entry.stat(follow_symlinks=False)
                            total += status.st_size
                            if status.st_nlink == 1:
                                unused.append((status.st_mtime, status.st_size, Path(entry.path)))
        return total, unused

    def _remove_dead_leases(self) -> int:
        """Delete the links of dead processes; returns the bytes that living ones are about to fetch."""
        reserved = 0
        for lease in (self.root / "leases").iterdir():
            if lease == self._lease:
                continue
            try:
                with exclusive_folder(lease, _BUSY):
                    shutil.rmtree(lease, ignore_errors=True)
            except BusyError:
                with contextlib.suppress(OSError, ValueError):
                    reserved += int((lease / RESERVED).read_text())
        return reserved

    def _write_reserved(self, change: int) -> None:
        self._reserved += change
        with contextlib.suppress(OSError):
            (self._lease / RESERVED).write_text(str(self._reserved))

    def _note_over_limit(self) -> None:
        if not self._noted:
            print(
                f"note: {self.root}: the runs that share this folder need more at the same time than --cache-limit "
                "allows; it is exceeded until they need less",
                file=sys.stderr,
                flush=True,
            )
        self._noted = True

    def _free(self) -> int:
        try:
            return shutil.disk_usage(self.root).free
        except OSError as error:
            raise storage_error(error, self.root, "asking for the free space") from error

    @contextlib.contextmanager
    def _alone(self) -> Generator[None, None, None]:
        """Wait until no other process makes room."""
        until = time.monotonic() + LOCK_SECONDS
        while True:
            with _locked(self.root / ".lock") as locked:
                if locked or time.monotonic() > until:
                    yield
                    return
            time.sleep(_POLL)


def _name(digest: str) -> str:
    return digest.rpartition(":")[2]


@contextlib.contextmanager
def _locked(path: Path, *, remove: bool = False) -> Generator[bool, None, None]:
    """Lock a file, whose lock the kernel takes away when this process dies; False if another one has it.

    Args:
        path: the file; created if it is missing.
        remove: whether to delete it in the end.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise storage_error(error, path, "opening a lock") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = _is_file(descriptor, path)
        except BlockingIOError:
            locked = False
        except OSError:  # a file system without locks: then objects may be fetched twice, and each is still whole
            locked = True
        try:
            yield locked
        finally:
            if remove and locked:
                with contextlib.suppress(OSError):
                    path.unlink()
    finally:
        os.close(descriptor)


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of this name: the one who had the lock before may have deleted it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
