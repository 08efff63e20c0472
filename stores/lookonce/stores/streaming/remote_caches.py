"""The caches of a run that lie at URLs: their documents from the store, their objects through the shared folder."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence

from lookonce.cache.read.cache_files import CacheFiles
from lookonce.cache.read.mapped_objects import Memory, map_file
from lookonce.cache.read.remote_caches import ObjectUse, RemoteOptions
from lookonce.shared.printing import bytes_text
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt, StoredObject
from lookonce.stores.pull import wanted_receipts
from lookonce.stores.push import DEFAULT_WORKERS
from lookonce.stores.remote_cache import Place, RemoteCache
from lookonce.stores.streaming.ahead import FetchAhead
from lookonce.stores.streaming.fetching import Fetching
from lookonce.stores.streaming.object_folder import ObjectFolder, default_folder
from lookonce.stores.transport.open_store import open_store
from lookonce.stores.transport.transfer import Transfer
from lookonce.stores.transport.urls import parse_url


def open_remote_caches(options: RemoteOptions) -> StreamedCaches:
    """What the entry point ``lookonce.remote_caches`` names; see ``lookonce.cache.read.remote_caches``."""
    return StreamedCaches(options)


class StreamedCaches:
    """See ``RemoteCaches`` for the methods.

    Args:
        options: folder, limit, patience.

    Raises:
        StorageError: the folder cannot be written.
    """

    def __init__(self, options: RemoteOptions) -> None:
        self.options = options
        root = default_folder() if options.cache_dir is None else options.cache_dir.expanduser().absolute()
        self._folder = ObjectFolder(root, options.cache_limit)
        self._fetching = Fetching(self._folder, workers=DEFAULT_WORKERS)
        self._lock, self._passes = threading.Lock(), 0
        self._finalizer = weakref.finalize(self, _close, self._fetching, self._folder)

    @property
    def fetched_bytes(self) -> int:
        """Bytes of objects that this process has fetched."""
        return self._fetching.fetched_bytes

    @property
    def room(self) -> int:
        """See ``RemoteCaches``."""
        return self._folder.room

    @property
    def room_text(self) -> str:
        """See ``RemoteCaches``."""
        limit, room = self._folder.limit, self.room
        if limit is not None and room == limit:
            return f"--cache-limit is {bytes_text(limit)}"
        return f"the disk of {self._folder.root} has room for {bytes_text(room)}"

    @property
    def folder(self) -> str:
        """See ``RemoteCaches``."""
        return str(self._folder.root)

    def files(self, url: str) -> StreamedFiles:
        """See ``RemoteCaches``."""
        patience = self.options.patience
        transfer = Transfer(
            open_store(parse_url(url, "--shards"), patience),
            workers=DEFAULT_WORKERS,
            patience=patience,
            advice="--patience waits longer",
        )
        return StreamedFiles(transfer, self._fetching, self)

    def bytes_there(self, objects: Sequence[StoredObject]) -> int:
        """See ``RemoteCaches``."""
        return sum(stored.bytes for stored in objects if self._folder.has(stored.digest, stored.bytes))

    def ahead(self, uses: Iterator[ObjectUse], horizon: int) -> FetchAhead:
        """See ``RemoteCaches``."""
        with self._lock:
            self._passes += 1
        self._fetching.let_wait(True)

        def ended() -> None:
            with self._lock:
                self._passes -= 1
                last = not self._passes
            if last:
                self._fetching.let_wait(False)

        return FetchAhead(self._fetching, uses, horizon, _transfer_of, ended)

    def close(self) -> None:
        """See ``RemoteCaches``."""
        self._finalizer()


class StreamedFiles:
    """See ``CacheFiles`` for the methods.

    Args:
        transfer: requests to the store of the cache.
        fetching: objects of this process.
        caches: what they belong to.
    """

    def __init__(self, transfer: Transfer, fetching: Fetching, caches: StreamedCaches) -> None:
        self.transfer, self._fetching, self._caches = transfer, fetching, caches
        self._remote = RemoteCache(transfer)

    def __reduce__(self) -> tuple[object, tuple[str, RemoteOptions]]:
        return _reopened, (self.place, self._caches.options)

    @property
    def place(self) -> str:
        """The URL."""
        return self.transfer.store.url

    def load_manifest(self) -> Manifest:
        """See ``CacheFiles``."""
        return self._remote.manifest().manifest

    def load_receipts(self, manifest: Manifest, seeds: Sequence[int] | None) -> Mapping[Place, Receipt]:
        """See ``CacheFiles``."""
        return wanted_receipts(self._remote, manifest, seeds)

    def open_object(self, stored: StoredObject, *, check: bool) -> Memory:
        """See ``CacheFiles``; whatever ``check`` is, it was digested when it was fetched or found."""
        with self._fetching.opened(stored, self.transfer) as path:
            return map_file(path, stored, check_digest=False)

    def together(self, objects: Sequence[StoredObject]) -> contextlib.AbstractContextManager[None]:
        """See ``CacheFiles``."""
        return self._fetching.together(objects, self.transfer)


def _transfer_of(use: ObjectUse) -> Transfer:
    if not isinstance(use.files, StreamedFiles):
        raise TypeError(f"{use.files.place}: not a cache at a URL")
    return use.files.transfer


def _reopened(url: str, options: RemoteOptions) -> CacheFiles:
    return StreamedCaches(options).files(url)


def _close(fetching: Fetching, folder: ObjectFolder) -> None:
    fetching.close()
    folder.close()
