"""Threads that fetch objects into the folder, those first that are needed first; a read waits for its object."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
import time
import weakref
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lookonce.cache.read.mapped_objects import digest_file
from lookonce.shared.errors import IntegrityError, Interrupted, LookonceError, MachineError
from lookonce.shared.faults.os_errors import access_error
from lookonce.shared.stopping import raise_if_stopped
from lookonce.storage_schemas.receipt import StoredObject
from lookonce.stores.remote_cache import DAMAGED
from lookonce.stores.streaming.object_folder import ObjectFolder
from lookonce.stores.transport.transfer import Transfer

NOW = -1
"""Priority of an object that a read waits for."""
_POLL = 0.2


@dataclass(eq=False)
class HeldObject:
    """An object that this process needs."""

    stored: StoredObject
    transfer: Transfer
    """Requests to the store of its cache."""
    holders: int = 0
    state: Literal["absent", "queued", "fetching", "there", "failed", "dropped"] = "absent"
    urgent: bool = False
    """Whether a read waits for it."""
    reserved: bool = False
    """Whether room is reserved for it."""
    error: LookonceError | None = None

    @property
    def is_there(self) -> bool:
        """Whether it can be read."""
        return self.state == "there"


class Fetching:
    """Objects that this process holds, by digest; thread-safe.

    Args:
        folder: the folder of the machine.
        workers: objects that are fetched or digested at the same time.
    """

    def __init__(self, folder: ObjectFolder, *, workers: int) -> None:
        self.folder, self._workers = folder, workers
        self._changed = threading.Condition()
        self._objects = dict[str, HeldObject]()
        self._queue, self._postponed = list[tuple[int, int, HeldObject]](), list[tuple[int, int, HeldObject]]()
        self._numbers, self._running = itertools.count(), 0
        self._digested = set[str]()
        self._failing = False
        """The last request failed: nothing but what a read waits for is fetched, until one succeeds."""
        self._closed = self._stopped = False
        self.fetched_bytes = 0
        """Bytes that this process has fetched."""
        _open.add(self)

    def hold(self, wanted: Iterable[tuple[StoredObject, Transfer]]) -> list[HeldObject]:
        """Hold objects until ``release``; those that the folder has cannot be evicted from now on.

        Returns:
            The objects that have to be fetched; the caller makes room for them and calls ``fetch``.
        """
        absent = []
        with self._changed:
            for stored, transfer in wanted:
                found = self._objects.setdefault(stored.digest, HeldObject(stored, transfer))
                found.holders += 1
                if found.state != "absent":
                    continue
                if self.folder.take(stored.digest, stored.bytes):
                    if stored.digest in self._digested:
                        found.state = "there"
                    else:
                        self._enqueue(found, 0)
                else:
                    absent.append(found)
        return absent

    def release(self, objects: Iterable[StoredObject]) -> bool:
        """Release some objects, once for each ``hold``; whether nobody holds one of them any more."""
        dropped = False
        with self._changed:
            for stored in objects:
                found = self._objects[stored.digest]
                found.holders -= 1
                dropped |= not found.holders
                if not found.holders and found.state != "fetching":
                    self._drop(found)
        return dropped

    def fetch(self, objects: Iterable[HeldObject], step: int) -> None:
        """Fetch objects for which there is room; those of earlier steps come first."""
        with self._changed:
            for found in objects:
                if found.state == "absent" and not found.reserved:
                    found.reserved = True
                    self._enqueue(found, step)
                else:  # a read has done so meanwhile
                    self.folder.end_reservation(found.stored.bytes)

    @contextlib.contextmanager
    def opened(self, stored: StoredObject, transfer: Transfer) -> Generator[Path, None, None]:
        """The file of an object, which is fetched now if nobody has asked for it before.

        Raises:
            IntegrityError: the object at the URL is missing or has other bytes.
            StoreError: the store refuses or does not answer.
            StorageError: the disk has too little room, or refused.
            Interrupted: the run ends.
        """
        self.hold([(stored, transfer)])
        try:
            yield self._wait(stored)
        finally:
            self.release([stored])

    def let_wait(self, wait: bool) -> None:
        """Whether reads may wait for objects; if not, they end with ``Interrupted``."""
        with self._changed:
            self._stopped = not wait
            self._changed.notify_all()

    @contextlib.contextmanager
    def together(self, objects: Sequence[StoredObject], transfer: Transfer) -> Generator[None, None, None]:
        """Fetch objects that will be opened inside at the same time, if there is room for all."""
        absent = self.hold([(stored, transfer) for stored in objects])
        try:
            if absent and self.folder.make_room(sum(found.stored.bytes for found in absent), must=False):
                self.fetch(absent, 0)
            yield
        finally:
            self.release(objects)

    def close(self) -> None:
        """End all waits and requests."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            for found in self._objects.values():
                found.transfer.stop()
            self._changed.notify_all()

    def _wait(self, stored: StoredObject) -> Path:
        self.folder.require_process()
        began = time.monotonic()
        with self._changed:
            found = self._objects[stored.digest]
            if found.error is not None:  # some time ago: it may succeed now
                found.state, found.error = "absent", None
            while not found.is_there:
                if found.error is not None:
                    raise found.error
                if self._closed or self._stopped:
                    raise Interrupted("the run ends, and its input is not waited for")
                if not found.urgent and found.state in ("absent", "queued"):
                    self._hurry(found)
                self._changed.wait(_POLL)
                raise_if_stopped(began)
            return self.folder.path(stored.digest)

    def _hurry(self, found: HeldObject) -> None:
        if found.state == "absent" and not found.reserved:
            self.folder.make_room(found.stored.bytes, must=True)
            found.reserved = True
        found.urgent = True
        self._enqueue(found, NOW)

    def _enqueue(self, found: HeldObject, step: int) -> None:
        found.state = "queued"
        heapq.heappush(self._queue, (step, next(self._numbers), found))
        if self._running < self._workers:
            self._running += 1
            threading.Thread(target=self._work, name="lookonce-fetch").start()

    def _work(self) -> None:
        """Fetch until nothing is left to fetch: a thread that waits for work would keep the process alive."""
        while (found := self._next()) is not None:
            error: LookonceError | None = None
            try:
                self._obtain(found)
            except LookonceError as failed:
                error = failed
            except Exception as failed:  # of a library; the read that waits raises it
                error = MachineError(f"{_where(found)}: fetching failed: {type(failed).__name__}: {failed}")
            with self._changed:
                self._end(found, error)

    def _next(self) -> HeldObject | None:
        with self._changed:
            while self._queue and not self._closed and threading.main_thread().is_alive():
                entry = heapq.heappop(self._queue)
                found = entry[2]
                if found.state != "queued":  # dropped, or fetched since a read waited for it
                    continue
                if self._failing and not found.urgent:
                    self._postponed.append(entry)
                    continue
                found.state = "fetching"
                return found
            self._running -= 1
            return None

    def _end(self, found: HeldObject, error: LookonceError | None) -> None:
        """Note how the fetching of an object ended."""
        self._end_reservation(found)
        found.state, found.error, found.urgent = ("there" if error is None else "failed"), error, False
        self._failing = error is not None
        if error is None:
            for entry in self._postponed:
                heapq.heappush(self._queue, entry)
            self._postponed.clear()
        if not found.holders:
            self._drop(found)
        self._changed.notify_all()

    def _drop(self, found: HeldObject) -> None:
        self._end_reservation(found)
        found.state = "dropped"
        self.folder.release(found.stored.digest)
        del self._objects[found.stored.digest]

    def _end_reservation(self, found: HeldObject) -> None:
        if found.reserved:
            found.reserved = False
            self.folder.end_reservation(found.stored.bytes)

    def _obtain(self, found: HeldObject) -> None:
        """Have the folder hold a sound object: as another process fetched it, or by fetching it."""
        stored, folder = found.stored, self.folder
        while not self._closed:
            if folder.take(stored.digest, stored.bytes):
                if self._is_sound(stored):
                    return
                folder.discard(stored.digest)
            with folder.fetching(stored.digest) as alone:
                if alone and not folder.has(stored.digest, stored.bytes):
                    self._download(found)
                    return
            if not alone:
                time.sleep(_POLL / 4)
        raise Interrupted("the run ends, and its input is not waited for")

    def _is_sound(self, stored: StoredObject) -> bool:
        """Whether an object has its digest, which is checked once in each process: files are not synced to disk."""
        if stored.digest in self._digested:
            return True
        path = self.folder.path(stored.digest)
        try:
            with path.open("rb", buffering=0) as handle:
                sound = digest_file(handle) == stored.digest
        except OSError as error:
            raise access_error(error, path) from error
        if sound:
            self._digested.add(stored.digest)
        return sound

    def _download(self, found: HeldObject) -> None:
        stored = found.stored
        path = self.folder.path(stored.digest)
        problem = found.transfer.receive(stored.path, stored.bytes, stored.digest, path, durable=False)
        if problem is not None:
            raise IntegrityError(f"{_where(found)}: {problem}; {DAMAGED}")
        self.folder.share(stored.digest)
        self._digested.add(stored.digest)
        with self._changed:
            self.fetched_bytes += stored.bytes


_open: weakref.WeakSet[Fetching] = weakref.WeakSet()


def _close_all() -> None:
    for fetching in list(_open):
        if fetching.folder.is_of_this_process:
            fetching.close()


# A program may end in the middle of a run. Python then joins its threads before it calls what ``atexit`` knows, and
# reads would wait for objects as long as the patience lasts. concurrent.futures ends its threads in the same way.
threading._register_atexit(_close_all)  # type: ignore[attr-defined]


def _where(found: HeldObject) -> str:
    return f"{found.transfer.store.url}/{found.stored.path}"
