"""What a run needs of caches at URLs. ``lookonce.stores`` provides it as a plug-in, so that nothing here knows stores.

A run tells which objects it will read at which step (``ObjectUse``), and where it is (``ObjectsAhead.advance``).
Objects are fetched in this order, and given up when their last step is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, cast

from lookonce.cache.read.cache_files import CacheFiles
from lookonce.shared.errors import MachineError
from lookonce.storage_schemas.receipt import StoredObject

PLUG_IN = "lookonce.remote_caches"
"""Group of entry points; the first one opens ``RemoteCaches``."""


@dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """How caches at URLs are read."""

    cache_dir: Path | None = None
    """Folder for objects that were fetched; None for the user's."""
    cache_limit: int | None = None
    """Bytes of objects that the folder keeps; None for what the disk has room for."""
    patience: float
    """Seconds without progress after which failing requests are no longer repeated."""


@dataclass(frozen=True, kw_only=True)
class ObjectUse:
    """Objects that a run reads in some of its steps."""

    files: CacheFiles
    """Files of the cache."""
    objects: tuple[StoredObject, ...]
    first: int
    """First step that reads them."""
    last: int
    """Last step that reads them, before a pause."""
    close: Callable[[], None]
    """Called when the last step is over; closes their maps."""

    @property
    def bytes(self) -> int:
        """Bytes of all objects."""
        return sum(stored.bytes for stored in self.objects)


class ObjectsAhead(Protocol):
    """Objects of one pass over steps, fetched ahead of them."""

    def advance(self, oldest: int, newest: int) -> None:
        """Report which step is being read.

        Args:
            oldest: the first step that is not complete.
            newest: the last step whose reading has begun.
        """
        ...

    def close(self) -> None:
        """Give up all objects. Reads that wait for one end with ``Interrupted`` when the last pass is closed."""
        ...


class RemoteCaches(Protocol):
    """The caches of one run that lie at URLs, with the folder that their objects are fetched to; thread-safe."""

    def files(self, url: str) -> CacheFiles:
        """The files of a cache.

        Raises:
            UsageError: it is no URL of a cache.
            StoreError: the store refuses or does not answer.
        """
        ...

    @property
    def folder(self) -> str:
        """The folder of fetched objects."""
        ...

    @property
    def room(self) -> int:
        """Bytes that the folder may keep, those of other runs included."""
        ...

    @property
    def room_text(self) -> str:
        """What sets ``room``: ``--cache-limit 200 GB``, or the disk."""
        ...

    def bytes_there(self, objects: Sequence[StoredObject]) -> int:
        """Bytes of those objects that the folder has."""
        ...

    def ahead(self, uses: Iterator[ObjectUse], horizon: int) -> ObjectsAhead:
        """Begin to fetch.

        Args:
            uses: in the order of their first steps.
            horizon: steps after the newest one from which objects are fetched, if there is room.
        """
        ...

    def close(self) -> None:
        """Give up all objects, and stop what is being fetched."""
        ...


def open_remote_caches(options: RemoteOptions) -> RemoteCaches:
    """The plug-in for caches at URLs.

    Raises:
        MachineError: none is installed.
        StorageError: the folder cannot be written.
    """
    for plug_in in entry_points(group=PLUG_IN):
        return cast("RemoteCaches", plug_in.load()(options))
    raise MachineError(
        "this installation of lookonce cannot read caches from URLs: install it again (pip install -e .)"
    )
