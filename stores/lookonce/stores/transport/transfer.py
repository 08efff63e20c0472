"""Moves objects in threads: repeats what may pass, gives up when nothing moves, counts bytes, hashes on the way."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import BinaryIO, TypeVar

from lookonce.shared.canonical import DIGEST_PREFIX
from lookonce.shared.errors import IntegrityError, Interrupted, StoreError
from lookonce.shared.faults.os_errors import access_error
from lookonce.shared.files.atomic import atomic_file
from lookonce.stores.transport.object_store import PART_BYTES
from lookonce.stores.transport.store import ReplacedError, Store
from lookonce.stores.transport.store_errors import SLOW_ADVICE, given_up

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Seconds before a request is repeated; each pause is twice the one before."""
MOST_PARTS = 9000
"""S3 takes 10,000 parts of one object."""
TRIES_OF_CONTENT = 2
"""Downloads of an object with wrong bytes: a proxy may have spoiled the first."""

Progress = Callable[[int, int], None]
"""Called with the bytes that were moved and the bytes in all; by several threads, one at a time."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Transfer:
    """Requests to one store, from several threads.

    Args:
        store: where the objects lie.
        workers: threads, at least 1. Each holds at most one object open, and its parts in memory.
        patience: seconds without progress after which a failing request is no longer repeated.
        progress: called with bytes.
        advice: what helps against a server that is too slow, for messages.
    """

    def __init__(
        self,
        store: Store,
        *,
        workers: int,
        patience: float,
        progress: Progress | None = None,
        advice: str = SLOW_ADVICE,
    ) -> None:
        self.store, self._advice = store, advice
        self._workers, self._patience, self._progress = workers, patience, progress
        self._moved_at, self._stop, self._lock = time.monotonic(), threading.Event(), threading.Lock()
        self._done = self._total = 0

    def each(self, work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        """Like ``map`` in threads. The first failure stops all of them.

        Raises:
            LookonceError: of the first failure.
        """
        if not items:
            return []
        pool = ThreadPoolExecutor(min(self._workers, len(items)), thread_name_prefix="lookonce-transfer")
        futures: list[Future[_Result]] = [pool.submit(work, item) for item in items]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = [error for future in done if (error := future.exception()) is not None]
            if failed:
                raise next((error for error in failed if not isinstance(error, Interrupted)), failed[0])
            return [future.result() for future in futures]
        except BaseException:
            self._stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def stop(self) -> None:
        """End all requests soon; they raise ``Interrupted``."""
        self._stop.set()

    def expect(self, count: int) -> None:
        """Set the bytes in all, for the progress."""
        self._done, self._total = 0, count

    def ask(self, request: Callable[[], _Result]) -> _Result:
        """The result of a request, which is repeated as long as its failure may pass and something moves elsewhere.

        Raises:
            StoreError: it failed for good.
        """
        pause, began = FIRST_PAUSE, time.monotonic()
        while True:
            self._raise_if_stopped()
            try:
                result = request()
            except StoreError as error:
                if not error.may_pass:
                    raise
                if time.monotonic() + pause - max(self._moved_at, began) > self._patience:
                    raise given_up(error, self._patience, self._advice) from error
                self._stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            self._moved_at = time.monotonic()
            return result

    def receive(self, path: str, size: int, digest: str, out: Path | None, *, durable: bool = True) -> str | None:
        """Read an object, hash it on the way, and write it to a file by rename.

        Args:
            path: the object.
            size: its bytes as its receipt lists them.
            digest: its digest as its receipt lists it.
            out: the file; None to hash only.
            durable: sync the file to disk before it gets its name.

        Returns:
            What is wrong with the object, as part of a sentence; None if all is right. A wrong object is not written.

        Raises:
            StoreError: the store refuses, or nothing moves any more.
            StorageError: the file cannot be written.
        """
        problem: str | None = None
        for _ in range(TRIES_OF_CONTENT):
            with contextlib.suppress(_WrongError), contextlib.ExitStack() as files:
                problem = "it was replaced while it was read"
                handle = None if out is None else files.enter_context(atomic_file(out, durable=durable))
                problem = self._receive(path, size, digest, handle)
                if problem is None:
                    return None
                raise _WrongError  # inside, so that the file does not appear
        return problem

    def _receive(self, path: str, size: int, digest: str, handle: BinaryIO | None) -> str | None:
        got = _Received(handle)
        counted, etag = 0, None

        def attempt() -> str | None:
            nonlocal counted, etag
            if size and got.bytes == size:  # only the end of the answer was missing
                return None
            try:
                found = self.store.stream(path, start=got.bytes, etag=etag if got.bytes else None)
                if found is None:
                    return "there is no such object"
                if found.facts.bytes != size:
                    return f"{found.facts.bytes} bytes, its receipt lists {size}: it was replaced or damaged"
                etag = found.facts.etag
                for chunk in found.chunks:
                    self._raise_if_stopped()
                    got.add(chunk)
                    if got.bytes > counted:  # bytes that come for a second time are no progress
                        self._count(got.bytes - counted)
                        counted = got.bytes
            except ReplacedError as error:
                if not got.bytes:
                    raise StoreError(f"{self.store.url}/{path}: it was replaced", may_pass=True) from error
                got.restart()
                raise StoreError(
                    f"{self.store.url}/{path}: it was replaced meanwhile, or the server ignores ranges of bytes",
                    may_pass=True,
                ) from error
            if got.bytes < size:
                raise StoreError(
                    f"{self.store.url}/{path}: its content ended after {got.bytes} of {size} bytes", may_pass=True
                )
            return None

        problem = self.ask(attempt)
        if problem is not None or got.digest == digest:
            return problem
        self._count(-counted)
        return f"the digest of its bytes is {got.digest}, its receipt lists {digest}: it was replaced or damaged"

    def send(self, path: str, file: Path, size: int, digest: str) -> None:
        """Write a file as an object, unless its bytes are not those of its receipt.

        Args:
            path: the object.
            file: the file.
            size: its bytes as its receipt lists them.
            digest: its digest as its receipt lists it.

        Raises:
            IntegrityError: the file has other bytes; no object was written.
            AccessError: the file cannot be read.
            StoreError: the store refuses, or nothing moves any more.
        """
        counted, part_bytes = 0, max(PART_BYTES, -(-size // MOST_PARTS))

        def parts() -> Iterator[memoryview]:
            nonlocal counted
            sent = 0
            for part in _parts(file, size, digest, part_bytes):
                self._raise_if_stopped()
                yield part
                sent += len(part)
                if sent > counted:
                    self._count(sent - counted)
                    counted = sent

        def attempt() -> None:
            nonlocal counted
            if size > PART_BYTES:
                self.store.write(path, parts(), digest, part_bytes=part_bytes)
                return
            self.store.write(path, b"".join(_parts(file, size, digest, part_bytes)), digest)
            self._count(size)

        self.ask(attempt)

    def send_bytes(self, path: str, content: bytes) -> None:
        """Write a small object."""
        digest = DIGEST_PREFIX + hashlib.sha256(content).hexdigest()
        self.ask(lambda: self.store.write(path, content, digest))

    def read(self, path: str) -> bytes | None:
        """The content of a small object; None if there is no such object."""
        return self.ask(lambda: self.store.read(path))

    def _count(self, count: int) -> None:
        if count > 0:
            self._moved_at = time.monotonic()
        with self._lock:
            self._done += count
            if self._progress is not None:
                self._progress(self._done, self._total)

    def _raise_if_stopped(self) -> None:
        if self._stop.is_set():
            raise Interrupted("the transfer was stopped")


class _WrongError(Exception):
    """The object's bytes are wrong."""


class _Received:
    """What has come of an object: its number of bytes, its digest so far, and the file."""

    def __init__(self, handle: BinaryIO | None) -> None:
        self._handle, self._hasher, self.bytes = handle, hashlib.sha256(), 0

    def add(self, chunk: memoryview) -> None:
        self._hasher.update(chunk)
        if self._handle is not None:
            self._handle.write(chunk)
        self.bytes += len(chunk)

    def restart(self) -> None:
        self._hasher, self.bytes = hashlib.sha256(), 0
        if self._handle is not None:
            self._handle.seek(0)
            self._handle.truncate()

    @property
    def digest(self) -> str:
        return DIGEST_PREFIX + self._hasher.hexdigest()


def _parts(file: Path, size: int, digest: str, part_bytes: int) -> Iterable[memoryview]:
    """The bytes of a file in parts, each in a buffer of its own. The last part comes after all bytes were hashed.

    Raises:
        IntegrityError: size or digest are others; the last part was not given.
        AccessError: the file cannot be read.
    """
    hasher, got, last = hashlib.sha256(), 0, memoryview(b"")
    try:
        with file.open("rb", buffering=0) as handle:
            while part := handle.read(part_bytes):
                if last:
                    yield last
                last = memoryview(part)
                hasher.update(last)
                got += len(part)
    except OSError as error:
        raise access_error(error, file) from error
    found = DIGEST_PREFIX + hasher.hexdigest()
    if (got, found) != (size, digest):
        raise IntegrityError(
            f"{file}: {got} bytes with the digest {found}, its receipt lists {size} bytes and {digest}: it was "
            "changed or damaged, and is not sent; feature-cache verify --full names all such objects"
        )
    if last:
        yield last
