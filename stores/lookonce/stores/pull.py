"""Pulls a cache, or some of its seeds, from a URL to a folder.

Each object is hashed while it is written under a temporary name, synced and renamed; a shard's receipt comes after
its objects. So a pull that breaks leaves an incomplete cache, which a second pull completes: shards with a receipt
stay, and of the others the objects whose bytes are right.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookonce.cache.committed import is_committed
from lookonce.cache.layout import CacheLayout, receipt_path
from lookonce.cache.read.mapped_objects import digest_file
from lookonce.cache.write.create import (
    check_same_recipe,
    check_same_storage,
    exclusive_writer,
    existing_manifest,
    prepare_seed,
    remove_temporary_files,
)
from lookonce.shared.config_values import Count, Positive, convert_fields, parse_seeds, validate
from lookonce.shared.errors import (
    CacheError,
    CacheMismatchError,
    IncompleteCacheError,
    IntegrityError,
    StorageError,
)
from lookonce.shared.faults.os_errors import ABSENT, access_error, storage_error
from lookonce.shared.files.atomic import write_bytes, write_json
from lookonce.shared.given_flags import refuse_urls
from lookonce.shared.printing import Result, bytes_text, count_text
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt, StoredObject
from lookonce.stores.push import DEFAULT_PATIENCE, DEFAULT_WORKERS
from lookonce.stores.remote_cache import DAMAGED, Place, RemoteCache, RemoteManifest
from lookonce.stores.transport.open_store import open_store
from lookonce.stores.transport.transfer import Progress, Transfer
from lookonce.stores.transport.urls import parse_url


@dataclass(frozen=True, kw_only=True)
class PullConfig:
    """One pull: the URL of a cache and the folder that it goes to."""

    url: str
    """URL of a cache: s3://, gs://, az://, https:// or ``hf://datasets/OWNER/NAME[@REVISION][/PATH]``."""
    out: Path
    """Cache folder: new, empty, or a cache of the same recipe, which then gets what it lacks."""
    seeds: str | None = None
    """Seeds to pull, such as 0-1 or 0,2,5; default: all that are complete at the URL."""
    workers: Count = DEFAULT_WORKERS
    """Objects that are read at the same time, at least 1; each needs up to 8 MiB of memory."""
    patience: Positive = DEFAULT_PATIENCE
    """Seconds without progress after which failing requests are no longer repeated."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        convert_fields(self, Path, "out")
        validate(self)
        refuse_urls(self)
        parse_url(self.url)
        if self.seeds is not None:
            parse_seeds(self.seeds)


@dataclass(frozen=True, kw_only=True)
class PullSummary(Result):
    """Result of a pull."""

    url: str
    cache: str
    fingerprint: str
    seeds: tuple[int, ...]
    objects: int
    """Objects of these seeds."""
    objects_fetched: int
    """Those that this pull fetched; the others were there."""
    bytes: int
    bytes_fetched: int

    def document(self) -> dict[str, Any]:
        """The summary as a JSON-compatible document."""
        return {**asdict(self), "seeds": list(self.seeds)}

    def text(self) -> str:
        """One line for people."""
        seeds = ", ".join(map(str, self.seeds))
        return (
            f"{self.cache}: seeds {seeds} are complete: {count_text(self.objects, 'object')}, {bytes_text(self.bytes)} "
            f"({self.objects_fetched} fetched now, {bytes_text(self.bytes_fetched)})"
        )


def pull_cache(config: PullConfig, *, progress: Progress | None = None) -> PullSummary:
    """Pull a cache from a URL. A pull that was interrupted goes on when it is run again.

    Args:
        config: URL, folder and seeds.
        progress: called with the bytes that were fetched and those to fetch; by several threads, one at a time.

    Raises:
        CacheError: there is no cache at the URL, or the folder has something else, or a shard with other content.
        RecipeMismatchError: another recipe made the cache in the folder.
        CacheMismatchError: a seed is not there.
        IncompleteCacheError: a seed is not complete at the URL.
        IntegrityError: an object at the URL is damaged; it is not written.
        StoreError: the store refuses or does not answer.
        StorageError: the disk has too little room, or refused a write; committed shards stay valid.
    """
    out = config.out.expanduser().absolute()
    existing_manifest(out)  # refuses a folder with other files before anything is requested
    store = open_store(parse_url(config.url), config.patience)
    transfer = Transfer(store, workers=config.workers, patience=config.patience, progress=progress)
    remote = RemoteCache(transfer)
    found = remote.manifest()
    receipts = wanted_receipts(remote, found.manifest, None if config.seeds is None else parse_seeds(config.seeds))
    with exclusive_writer(out):
        remove_temporary_files(out)
        try:
            return _Pull(transfer, found, receipts, out).run()
        finally:
            remove_temporary_files(out)


def wanted_receipts(remote: RemoteCache, manifest: Manifest, seeds: Sequence[int] | None) -> Mapping[Place, Receipt]:
    """Receipts of the seeds to pull; notes on standard error name seeds that are left out.

    Args:
        remote: the cache.
        manifest: its manifest.
        seeds: seeds, which must be complete; None for all complete ones.

    Raises:
        CacheMismatchError: a seed is not there.
        IncompleteCacheError: a seed is not complete, or none is.
        SchemaError: a receipt is invalid.
    """
    shards = set(range(manifest.shard_count))
    there = remote.receipted(manifest, seeds)
    if absent := sorted(set(seeds or ()) - set(there)):
        raise CacheMismatchError(f"{remote.url}: --seeds: there is no seed {absent[0]}; check the URL or the seeds")
    receipts = remote.receipts(
        manifest, [(seed, shard) for seed, found in there.items() if found >= shards for shard in sorted(shards)]
    )
    lacking = {seed for seed, found in there.items() if not found >= shards}
    lacking |= {place[0] for place, receipt in receipts.items() if receipt is None}
    chosen = [seed for seed in there if seed not in lacking]
    if lacking and (seeds is not None or not chosen):
        raise IncompleteCacheError(
            f"{remote.url}: seed {min(lacking)} is not complete there: a push of it has not ended; run the push again"
        )
    if not chosen:
        raise IncompleteCacheError(f"{remote.url}: the cache has no seed; push one")
    if lacking:
        _note(f"{remote.url}: seeds {_listed(lacking)} are not complete there and are left out")
    if seeds is None and not remote.lists:
        _note(
            f"{remote.url}: a web server does not list its files; found seeds {_listed(chosen)} by asking for 0, 1, 2 "
            "and so on up to the first that is not there; --seeds names others"
        )
    return {place: receipt for place, receipt in receipts.items() if receipt is not None and place[0] in chosen}


class _Pull:
    def __init__(self, transfer: Transfer, found: RemoteManifest, receipts: Mapping[Place, Receipt], out: Path) -> None:
        self._transfer, self._found, self._receipts, self._out = transfer, found, receipts, out
        self._url, self._layout = transfer.store.url, CacheLayout(out)

    def run(self) -> PullSummary:
        manifest = self._open_or_create()
        seeds = tuple(dict.fromkeys(seed for seed, _ in self._receipts))
        for seed in seeds:
            prepare_seed(self._out, manifest, seed)
        places = [place for place in self._receipts if not self._is_there(manifest, place)]
        objects = [(place, stored) for place in places for stored in self._receipts[place].objects]
        right = self._transfer.each(lambda one: self._has_bytes(one[1]), objects)
        todo = [one for one, has in zip(objects, right, strict=True) if not has]
        count = sum(stored.bytes for _, stored in todo)
        self._require_room(len(todo), count)
        self._transfer.expect(count)
        fetch = _Shards(places, todo, self._commit)
        self._transfer.each(lambda one: self._fetch(*one, done=fetch.done), todo)
        return PullSummary(
            url=self._url,
            cache=str(self._out),
            fingerprint=manifest.recipe.fingerprint,
            seeds=seeds,
            objects=sum(len(receipt.objects) for receipt in self._receipts.values()),
            objects_fetched=len(todo),
            bytes=sum(receipt.content_bytes for receipt in self._receipts.values()),
            bytes_fetched=count,
        )

    def _open_or_create(self) -> Manifest:
        there, wanted = existing_manifest(self._out), self._found.manifest
        if there is not None:
            advice = "pull to another folder"
            check_same_recipe(self._out, there.recipe, wanted.recipe, advice=advice)
            check_same_storage(self._out, there, wanted, than=self._url, advice=advice)
            return there
        for path, content in self._found.objects.items():
            write_bytes(self._out / path, content)
        write_bytes(self._layout.manifest_file, self._found.content)
        return wanted

    def _is_there(self, manifest: Manifest, place: Place) -> bool:
        """Whether the folder has this shard; an invalid receipt is deleted before its objects are written again."""
        path = self._layout.receipt_file(*place)
        if not path.exists():
            return False
        if not is_committed(self._layout, manifest, *place):
            path.unlink()
            return False
        own, wanted = self._layout.load_receipt(*place), self._receipts[place]
        if (own.objects, own.holes) != (wanted.objects, wanted.holes):
            raise CacheError(
                f"{path}: the shard in the folder has other bytes of the same recipe than {self._url} (another "
                "extraction made it); it is left untouched: pull other seeds with --seeds, or pull to another folder"
            )
        return True

    def _has_bytes(self, stored: StoredObject) -> bool:
        """Whether an object without a receipt is there already, from an interrupted pull."""
        path = self._out / stored.path
        try:
            if path.stat().st_size != stored.bytes:
                return False
            with path.open("rb", buffering=0) as handle:
                return digest_file(handle) == stored.digest
        except ABSENT:
            return False
        except OSError as error:
            raise access_error(error, path) from error

    def _require_room(self, objects: int, count: int) -> None:
        try:
            free = shutil.disk_usage(self._out).free
        except OSError as error:
            raise storage_error(error, self._out, "asking for the free space") from error
        print(
            f"{self._out}: {count_text(objects, 'object')}, {bytes_text(count)} to fetch, {bytes_text(free)} free",
            file=sys.stderr,
            flush=True,
        )
        if count > free:
            raise StorageError(
                f"{self._out}: the pull needs {bytes_text(count)}, and the disk has {bytes_text(free)} free: make "
                "room, pull to another disk, or pull fewer seeds with --seeds"
            )

    def _fetch(self, place: Place, stored: StoredObject, *, done: Callable[[Place], None]) -> None:
        problem = self._transfer.receive(stored.path, stored.bytes, stored.digest, self._out / stored.path)
        if problem is not None:
            raise IntegrityError(f"{self._url}/{stored.path}: {problem}; {DAMAGED}")
        done(place)

    def _commit(self, place: Place) -> None:
        write_json(self._out / receipt_path(*place), self._receipts[place].document())


class _Shards:
    """Commits each shard after its last object.

    Args:
        places: shards to commit; those without an object to fetch are committed at once.
        objects: objects to fetch.
        commit: writes a receipt.
    """

    def __init__(
        self, places: Sequence[Place], objects: Sequence[tuple[Place, StoredObject]], commit: Callable[[Place], None]
    ) -> None:
        self._commit, self._lock = commit, threading.Lock()
        self._left = dict.fromkeys(places, 0)
        for place, _ in objects:
            self._left[place] += 1
        for place, left in self._left.items():
            if not left:
                commit(place)

    def done(self, place: Place) -> None:
        """One object of a shard has come."""
        with self._lock:
            self._left[place] -= 1
            last = not self._left[place]
        if last:
            self._commit(place)


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def _listed(seeds: Sequence[int] | set[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))
