"""The documents of a cache at a URL: its manifest, its seeds, its receipts."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import NDArray

from lookonce.cache.committed import receipt_mismatches
from lookonce.cache.containers import container_of
from lookonce.cache.layout import decode_arrays, decode_json, receipt_path, receipt_place
from lookonce.shared.errors import CacheError, SchemaError
from lookonce.shared.files.stand_ins import HEAD_BYTES, stand_in
from lookonce.storage_schemas.manifest import FILE_NAME, Manifest, parse_manifest
from lookonce.storage_schemas.receipt import Receipt, parse_receipt
from lookonce.stores.transport.transfer import Transfer

Place = tuple[int, int]
"""Seed and shard."""

DAMAGED = "the copy at this URL is damaged: push the cache again, or pull it from another place"


class RemoteManifest:
    """A manifest with the bytes that were read.

    Args:
        content: bytes of ``manifest.json``.
        objects: bytes of the objects that it names, by path.
        url: URL of the cache, for messages.

    Raises:
        SchemaError: the manifest is invalid.
    """

    def __init__(self, content: bytes, objects: Mapping[str, bytes], url: str) -> None:
        where = f"{url}/{FILE_NAME}"
        self.content, self.objects = content, objects
        self.document: Mapping[str, Any] = decode_json(content, where)

        def load(path: str) -> dict[str, NDArray[Any]]:
            if path not in objects:
                raise ValueError("there is no such object")
            return decode_arrays(objects[path])

        self.manifest: Manifest = parse_manifest(self.document, where, load)


class RemoteCache:
    """A cache at a URL.

    Args:
        transfer: requests to its store.
    """

    def __init__(self, transfer: Transfer) -> None:
        self._transfer, self.url, self.lists = transfer, transfer.store.url, transfer.store.lists

    def find_manifest(self) -> RemoteManifest | None:
        """The manifest; None if there is none, so that there is no cache yet.

        Raises:
            SchemaError: it is invalid, or is something else, such as a web page.
            StoreError: the store refuses or does not answer.
        """
        content = self._transfer.read(FILE_NAME)
        if content is None:
            return None
        if (kind := stand_in(content[:HEAD_BYTES])) is not None:
            raise SchemaError(f"{self.url}/{FILE_NAME}: expected a manifest, found {kind}; check the URL")
        named = named_object(decode_json(content, f"{self.url}/{FILE_NAME}"))
        found = None if named is None else self._transfer.read(named)
        return RemoteManifest(content, {} if named is None or found is None else {named: found}, self.url)

    def manifest(self) -> RemoteManifest:
        """The manifest.

        Raises:
            CacheError: there is none.
            SchemaError: it is invalid.
            StoreError: the store refuses or does not answer.
        """
        found = self.find_manifest()
        if found is None:
            raise CacheError(
                f"{self.url}: no {FILE_NAME} here, so this is not a lookonce cache, or a push of it has not ended; "
                "check the URL, or push the cache"
            )
        return found

    def receipted(self, manifest: Manifest, seeds: Iterable[int] | None = None) -> dict[int, set[int]]:
        """Shards that have a receipt, by seed; a web server that lists nothing is asked for seeds 0, 1, 2, ...

        Args:
            manifest: the manifest.
            seeds: the only seeds of interest; None for all.
        """
        found: dict[int, set[int]] = collections.defaultdict(set)
        if self._transfer.store.lists:
            folders = ["receipts"] if seeds is None else [receipt_path(seed, 0).rpartition("/")[0] for seed in seeds]
            for folder in folders:
                for path in self._transfer.ask(lambda folder=folder: self._transfer.store.sizes(folder)):  # type: ignore[misc]
                    if (place := receipt_place(path)) is not None:
                        found[place[0]].add(place[1])
            return dict(sorted(found.items()))
        for seed in seeds if seeds is not None else range(10**9):
            if self._transfer.ask(lambda seed=seed: self._transfer.store.head(receipt_path(seed, 0))) is None:  # type: ignore[misc]
                if seeds is None:
                    break
                continue
            found[seed] = set(range(manifest.shard_count))  # those without a receipt are found when they are read
        return dict(found)

    def receipts(self, manifest: Manifest, places: Iterable[Place]) -> dict[Place, Receipt | None]:
        """Receipts that belong to this cache; None where there is none.

        Raises:
            SchemaError: a receipt is invalid, or belongs to another cache.
        """
        wanted = list(places)
        contents = self._transfer.each(lambda place: self._transfer.read(receipt_path(*place)), wanted)
        return {
            place: None if content is None else self._receipt(manifest, place, content)
            for place, content in zip(wanted, contents, strict=True)
        }

    def _receipt(self, manifest: Manifest, place: Place, content: bytes) -> Receipt:
        where = f"{self.url}/{receipt_path(*place)}"
        receipt = parse_receipt(decode_json(content, where), where)
        wrong = receipt_mismatches(receipt, manifest) if place == (receipt.seed, receipt.shard) else {"place": place}
        listed = {stored.array: stored.path for stored in receipt.objects}
        if wrong or listed != container_of(manifest).object_paths(manifest, *place):
            raise SchemaError(f"{where}: this receipt belongs to another cache or shard; {DAMAGED}")
        return receipt


def named_object(document: Any) -> str | None:
    """Path of the object of the encoding that a manifest names, if it does and the path is one inside the cache."""
    encoding = document.get("encoding") if isinstance(document, dict) else None
    path = encoding.get("object") if isinstance(encoding, dict) else None
    if not isinstance(path, str) or path.startswith("/") or {"", ".", ".."} & set(path.split("/")):
        return None
    return path
