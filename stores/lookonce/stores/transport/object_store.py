"""A store through obstore: S3, Google Cloud Storage, Azure, and web servers for reading."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lookonce.shared.errors import LookonceError, MachineError
from lookonce.stores.transport.store import ObjectFacts, ObjectStream, ReplacedError
from lookonce.stores.transport.store_errors import store_error

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

CHUNK_BYTES = 1 << 20
"""Bytes of a chunk that is read: still in the processor's cache when it has been hashed and is written."""
PART_BYTES = 8 << 20
"""Bytes of a part that is written."""
PARTS_AT_ONCE = 3
"""Parts of one object that are under way."""
DIGEST_KEY = "sha256"
"""Name of the metadata with an object's digest."""


class ObjectStore:
    """Objects below a URL, through a client of obstore. See ``Store`` for the methods.

    Args:
        url: the URL, for messages.
        reader: client for reading, whose waits are short.
        writer: client for writing; a part of an upload may take longer.
        lists: whether the place can be listed.
    """

    def __init__(self, url: str, reader: Client, writer: Client, *, lists: bool = True) -> None:
        self.url, self.lists = url, lists
        self._reader, self._writer, self._process = reader, writer, os.getpid()

    def sizes(self, folder: str) -> dict[str, int]:
        """See ``Store.sizes``."""
        with self._errors(folder):
            pages = self._read_client().list(prefix=folder or None)
            return {str(entry["path"]): int(entry["size"]) for page in pages for entry in page}

    def top(self) -> list[str]:
        """See ``Store.top``."""
        with self._errors(""):
            listed = self._read_client().list_with_delimiter()
            names = [*listed["common_prefixes"], *(entry["path"] for entry in listed["objects"])]
            return sorted(name for name in (str(one).strip("/") for one in names) if name)  # "": a folder's own mark

    def head(self, path: str) -> ObjectFacts | None:
        """See ``Store.head``."""
        try:
            with self._errors(path):
                found = self._read_client().get(path, options={"head": True})
                return _facts(found.meta, found.attributes)
        except _AbsentError:
            return None

    def read(self, path: str) -> bytes | None:
        """See ``Store.read``."""
        try:
            with self._errors(path):
                return bytes(self._read_client().get(path).bytes())
        except _AbsentError:
            return None

    def stream(self, path: str, *, start: int = 0, etag: str | None = None) -> ObjectStream | None:
        """See ``Store.stream``."""
        options: dict[str, Any] = {"if_match": etag} if etag else {}
        if start:
            options["range"] = {"offset": start}
        try:
            with self._errors(path):
                found = self._read_client().get(path, options=options or None)  # type: ignore[arg-type]
                facts, chunks = _facts(found.meta, found.attributes), found.stream(min_chunk_size=CHUNK_BYTES)
        except _AbsentError:
            return None
        return ObjectStream(facts=facts, start=start, chunks=self._chunks(path, chunks))

    def write(
        self, path: str, content: bytes | Iterable[memoryview], sha256: str, *, part_bytes: int = PART_BYTES
    ) -> None:
        """See ``Store.write``."""
        with self._errors(path):
            if isinstance(content, bytes):
                self._write_client().put(path, content, attributes={DIGEST_KEY: sha256}, use_multipart=False)
                return
            self._write_client().put(
                path,
                iter(content),
                attributes={DIGEST_KEY: sha256},
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=PARTS_AT_ONCE,
            )

    def create(self, path: str, content: bytes) -> bool:
        """See ``Store.create``."""
        from obstore.exceptions import AlreadyExistsError

        with self._errors(path):
            try:
                self._write_client().put(path, content, mode="create")
            except AlreadyExistsError:
                return False
            return True

    def delete(self, path: str) -> None:
        """See ``Store.delete``."""
        try:
            with self._errors(path):
                self._write_client().delete(path)
        except _AbsentError:
            pass

    def _chunks(self, path: str, chunks: Iterable[Any]) -> Iterator[memoryview]:
        with self._errors(path):
            for chunk in chunks:
                yield memoryview(chunk)

    def _read_client(self) -> Client:
        self._require_process()
        return self._reader

    def _write_client(self) -> Client:
        self._require_process()
        return self._writer

    def _require_process(self) -> None:
        if os.getpid() != self._process:  # the threads of obstore's runtime are not copied by a fork: it would hang
            raise MachineError(f"{self.url}: the store was opened in another process; open it in this one")

    def _errors(self, path: str) -> _Errors:
        return _Errors(self.url, path)


class _AbsentError(Exception):
    """There is no such object."""


class _Errors:
    """Translates obstore's exceptions; those of the caller's own iterators pass."""

    def __init__(self, url: str, path: str) -> None:
        self._url, self._path = url, path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, LookonceError | GeneratorExit):  # the latter also when the process ends
            return
        from obstore.exceptions import BaseError, PreconditionError

        if isinstance(error, PreconditionError) or "NotPartial" in str(error):
            raise ReplacedError(f"{self._url}/{self._path}") from error
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
            raise _AbsentError from error
        if isinstance(error, BaseError | FileNotFoundError):
            raise store_error(error, self._url, self._path) from error


def _facts(meta: Any, attributes: Mapping[Any, Any]) -> ObjectFacts:
    return ObjectFacts(bytes=int(meta["size"]), etag=meta["e_tag"], sha256=attributes.get(DIGEST_KEY))
