"""What a place of objects can do: the interface that push, pull and verify use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class ObjectFacts:
    """What a store says of an object, without its content."""

    bytes: int
    etag: str | None
    """Changes with the content. It is no SHA-256: its meaning differs between stores and kinds of upload."""
    sha256: str | None = None
    """Digest that the writer left beside the object (``sha256:...``), in the same request as its content; None if it
    left none."""


@dataclass(frozen=True, kw_only=True)
class ObjectStream:
    """An object that is being read."""

    facts: ObjectFacts
    start: int
    """First byte of the stream."""
    chunks: Iterator[memoryview]
    """Its bytes from there to the end. Raises ``StoreError`` if they break off."""


class Store(Protocol):
    """Objects below one URL. Paths are POSIX paths relative to it. Thread-safe, in the process that opened it.

    Every request ends after some seconds. A request that fails raises ``StoreError``, which says whether it may
    succeed later; the caller repeats it.
    """

    @property
    def url(self) -> str:
        """The URL, without a slash at its end."""
        ...

    @property
    def lists(self) -> bool:
        """Whether objects can be listed; a plain web server cannot."""
        ...

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of all objects below a folder, by path; nothing if there is none."""
        ...

    def top(self) -> list[str]:
        """Names of the objects and folders directly below the URL, sorted."""
        ...

    def head(self, path: str) -> ObjectFacts | None:
        """Facts of an object; None if there is no such object."""
        ...

    def read(self, path: str) -> bytes | None:
        """The whole content of a small object; None if there is no such object."""
        ...

    def stream(self, path: str, *, start: int = 0, etag: str | None = None) -> ObjectStream | None:
        """Read an object from a byte on; None if there is no such object.

        Args:
            path: the object.
            start: first byte.
            etag: refuse the object if it has another ETag now.

        Raises:
            ReplacedError: the object has another ETag, or the server ignores the range of bytes.
        """
        ...

    def write(self, path: str, content: bytes | Iterable[memoryview], sha256: str, *, part_bytes: int = ...) -> None:
        """Write an object with its digest beside it. It appears as a whole or not at all.

        Args:
            path: the object.
            content: its bytes; chunks are sent as they come, in several requests. An exception of the iterator ends
                the upload without an object.
            sha256: ``sha256:...``.
            part_bytes: bytes of each request but the last, if the content is chunks.
        """
        ...

    def create(self, path: str, content: bytes) -> bool:
        """Write a small object if there is none; whether it was written.

        A store may ignore the condition; ``claims.py`` finds out.
        """
        ...

    def delete(self, path: str) -> None:
        """Delete an object, if there is one."""
        ...


class ReplacedError(Exception):
    """An object was replaced while it was read, or cannot be read from a byte on: read it from its start."""
