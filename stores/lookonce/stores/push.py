"""Pushes a cache folder to an object store.

Objects go first, then receipts, then the manifest, so that a push that breaks leaves no cache, or one without the new
seeds. Run again, it goes on: an object is not sent again if the store says that it has the right size, and the right
digest in the metadata that its writer sent with it. The writer hashes what it sends, and the object appears together
with its metadata or not at all. ETags are not trusted: they are no SHA-256, and what they are differs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookonce.cache.containers.container import seed_folder
from lookonce.cache.layout import receipt_path
from lookonce.cache.write.create import check_same_recipe, check_same_storage
from lookonce.shared.canonical import digest_bytes
from lookonce.shared.config_values import Count, Positive, convert_fields, parse_seeds, validate
from lookonce.shared.errors import CacheError, StoreError, UsageError
from lookonce.shared.files.atomic import json_bytes
from lookonce.shared.given_flags import refuse_urls
from lookonce.shared.printing import Result, bytes_text, count_text
from lookonce.storage_schemas.encoding import OBJECT_FOLDER
from lookonce.storage_schemas.manifest import FILE_NAME, Manifest
from lookonce.stores.claims import FOLDER, Claims
from lookonce.stores.local_content import LocalContent, NamedObject
from lookonce.stores.remote_cache import Place, RemoteCache
from lookonce.stores.transport.open_store import open_store
from lookonce.stores.transport.store import Store
from lookonce.stores.transport.transfer import Progress, Transfer
from lookonce.stores.transport.urls import parse_url

DEFAULT_WORKERS = 8
DEFAULT_PATIENCE = 120.0


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """One push: a cache folder and the URL that it goes to."""

    cache: Path
    """Cache folder."""
    url: str
    """Where it goes: s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH; empty, or a cache of the same recipe,
    which then gets the seeds that it lacks."""
    seeds: str | None = None
    """Seeds to push, such as 0-3 or 0,2,5; default: all that are complete."""
    workers: Count = DEFAULT_WORKERS
    """Objects that are sent at the same time, at least 1; each needs up to 48 MiB of memory."""
    patience: Positive = DEFAULT_PATIENCE
    """Seconds without progress after which failing requests are no longer repeated."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        convert_fields(self, Path, "cache")
        validate(self)
        refuse_urls(self)
        url = parse_url(self.url)
        if url.scheme == "hf":
            raise UsageError(
                f"URL {self.url}: the hub is written by its own tool: hf upload {url.place} {self.cache} "
                f"{url.prefix or '.'} --repo-type dataset --exclude .lock"
            )
        if not url.writable:
            raise UsageError(f"URL {self.url}: a web server can only be read; expected s3://, gs:// or az://")
        if self.seeds is not None:
            parse_seeds(self.seeds)


@dataclass(frozen=True, kw_only=True)
class PushSummary(Result):
    """Result of a push."""

    cache: str
    url: str
    fingerprint: str
    seeds: tuple[int, ...]
    objects: int
    """Objects of these seeds, and that of the encoding if there is one."""
    objects_sent: int
    """Those that this push sent; the others were there."""
    bytes: int
    bytes_sent: int

    def document(self) -> dict[str, Any]:
        """The summary as a JSON-compatible document."""
        return {**asdict(self), "seeds": list(self.seeds)}

    def text(self) -> str:
        """One line for people."""
        seeds = ", ".join(map(str, self.seeds))
        return (
            f"{self.url}: seeds {seeds} are complete: {count_text(self.objects, 'object')}, {bytes_text(self.bytes)} "
            f"({self.objects_sent} sent now, {bytes_text(self.bytes_sent)})"
        )


def push_cache(config: PushConfig, *, progress: Progress | None = None) -> PushSummary:
    """Push a cache folder to a URL. A push that was interrupted goes on when it is run again.

    Args:
        config: cache, URL and seeds.
        progress: called with the bytes that were sent and those to send; by several threads, one at a time.

    Raises:
        RecipeMismatchError: another recipe made the cache at the URL.
        CacheError: there is no cache in the folder, the URL has other objects, or one of its shards has other content.
        IncompleteCacheError: a seed of the folder is not complete.
        IntegrityError: an object of the folder is damaged; it is not sent.
        BusyError: another push of other content is under way at the URL.
        StoreError: the store refuses or does not answer.
    """
    root = config.cache.expanduser().absolute()
    content = LocalContent(root, None if config.seeds is None else parse_seeds(config.seeds))
    if content.incomplete:
        _note(f"{root}: seeds {_listed(content.incomplete)} are not complete and are not pushed")
    store = open_store(parse_url(config.url), config.patience)
    transfer = Transfer(store, workers=config.workers, patience=config.patience, progress=progress)
    return _Push(content, transfer).run()


class _Push:
    def __init__(self, content: LocalContent, transfer: Transfer) -> None:
        self._content, self._transfer = content, transfer
        self._store: Store = transfer.store
        self._remote = RemoteCache(transfer)

    def run(self) -> PushSummary:
        first = self._find_manifest() is None
        if first:
            self._require_own_place()
        claims = Claims(digests=self._claimed(first=first))
        if not claims.take(self._transfer):
            _note(
                f"{self._store.url}: this store ignores conditional writes (If-None-Match), so it cannot keep two "
                "pushes apart that begin at the same moment: see to it that nobody else pushes there now"
            )
        there = self._find_manifest()  # again: another push may have ended before the claims were written
        try:
            present = self._present_receipts(there)
        except CacheError:  # refused for good, and nothing was sent
            claims.drop(self._transfer)
            raise
        sizes = self._sizes()
        objects = [(place, one) for place in self._content.receipts for one in self._content.objects(place)]
        receipted = {one.path for place, one in objects if place in present}  # their push had sent them all
        named = [one for _, one in objects]
        if there is None and (encoding := self._content.encoding_object()) is not None:
            named.append(encoding)
        todo = self._lacking(named, sizes, receipted)
        self._transfer.expect(sum(one.bytes for one in todo))
        root = self._content.root
        self._transfer.each(lambda one: self._transfer.send(one.path, root / one.path, one.bytes, one.digest), todo)
        documents = self._content.seed_documents()
        metadata = [
            NamedObject(path=path, bytes=len(content), digest=digest_bytes(content))
            for path, content in documents.items()
        ]
        self._send_bytes({one.path: documents[one.path] for one in self._lacking(metadata, sizes)})
        self._send_bytes(
            {
                receipt_path(*place): json_bytes(receipt.document())
                for place, receipt in self._content.receipts.items()
                if place not in present
            }
        )
        if there is None:
            self._write_manifest()
        claims.drop(self._transfer)
        return PushSummary(
            cache=str(root),
            url=self._store.url,
            fingerprint=self._content.manifest.recipe.fingerprint,
            seeds=self._content.seeds,
            objects=len(named),
            objects_sent=len(todo),
            bytes=sum(one.bytes for one in named),
            bytes_sent=sum(one.bytes for one in todo),
        )

    def _find_manifest(self) -> Manifest | None:
        """The manifest at the URL, if it is of the same recipe and storage."""
        found = self._remote.find_manifest()
        if found is None:
            return None
        advice = "push to another URL"
        check_same_recipe(self._store.url, found.manifest.recipe, self._content.manifest.recipe, advice=advice)
        check_same_storage(
            self._store.url, found.manifest, self._content.manifest, than=str(self._content.root), advice=advice
        )
        return found.manifest

    def _require_own_place(self) -> None:
        """Refuse a place that something else has filled."""
        own = (FOLDER, "receipts", OBJECT_FOLDER)
        foreign = [
            name for name in self._transfer.ask(self._store.top) if name not in own and not name.startswith("seed-")
        ]
        if foreign:
            raise CacheError(
                f"{self._store.url}: contains other objects ({', '.join(foreign[:3])}{', ...' * (len(foreign) > 3)}) "
                "and no cache; push to a path of its own"
            )

    def _claimed(self, *, first: bool) -> Mapping[str, str]:
        seeds = {f"seed-{seed:04d}": self._content.seed_digest(seed) for seed in self._content.seeds}
        return {**seeds, "manifest": self._content.manifest_digest} if first else seeds

    def _present_receipts(self, there: Manifest | None) -> set[Place]:
        """Shards whose receipt is at the URL; it must be the same."""
        found = self._remote.receipted(self._content.manifest, self._content.seeds)
        places = [(seed, shard) for seed, shards in found.items() for shard in sorted(shards)]
        present = set[Place]()
        for place, receipt in self._remote.receipts(self._content.manifest, places).items():
            if receipt is None:
                continue
            own = self._content.receipts.get(place)
            if own is None or (receipt.objects, receipt.holes) != (own.objects, own.holes):
                raise CacheError(
                    f"{self._store.url}/{receipt_path(*place)}: the shard there has other bytes of the same recipe "
                    f"(another extraction made it){'' if there else ', in a push that has not ended'}; it is left "
                    "untouched: push other seeds with --seeds, or push to another URL"
                )
            present.add(place)
        return present

    def _sizes(self) -> Mapping[str, int]:
        """Bytes of the objects that are there, by path."""
        folders = [*(seed_folder(seed) for seed in self._content.seeds), OBJECT_FOLDER]
        listed = self._transfer.each(lambda folder: self._transfer.ask(lambda: self._store.sizes(folder)), folders)
        return {path: size for part in listed for path, size in part.items()}

    def _lacking(
        self, named: Sequence[NamedObject], sizes: Mapping[str, int], trusted: AbstractSet[str] = frozenset()
    ) -> list[NamedObject]:
        """Objects that are not there with the right size and, unless their path is trusted, the right digest."""

        def lacks(one: NamedObject) -> bool:
            if sizes.get(one.path) != one.bytes:
                return True
            if one.path in trusted:
                return False
            facts = self._transfer.ask(lambda: self._store.head(one.path))
            return facts is None or (facts.bytes, facts.sha256) != (one.bytes, one.digest)

        return [one for one, lacking in zip(named, self._transfer.each(lacks, named), strict=True) if lacking]

    def _send_bytes(self, documents: Mapping[str, bytes]) -> None:
        self._transfer.each(lambda path: self._transfer.send_bytes(path, documents[path]), list(documents))

    def _write_manifest(self) -> None:
        """Write the manifest, unless another push of the same recipe has just done so."""
        content = self._content.manifest_bytes
        try:
            written = self._transfer.ask(lambda: self._store.create(FILE_NAME, content))
        except StoreError as error:
            if not error.unsupported:
                raise
            self._transfer.send_bytes(FILE_NAME, content)
            return
        if not written:
            self._find_manifest()  # raises if it is of another recipe


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def _listed(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds))
