"""What a push sends: the committed shards of a cache folder, and every object that they and the manifest name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lookonce.cache.committed import receipt_mismatches, require_sizes
from lookonce.cache.containers import container_of
from lookonce.cache.layout import CacheLayout, decode_json
from lookonce.shared.canonical import DIGEST_PREFIX, digest_bytes, digest_document
from lookonce.shared.errors import CacheMismatchError, IncompleteCacheError, IntegrityError, SchemaError
from lookonce.shared.faults.os_errors import access_error
from lookonce.shared.files.atomic import json_bytes
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt
from lookonce.stores.remote_cache import Place


@dataclass(frozen=True, kw_only=True)
class NamedObject:
    """An object with the digest that a receipt or the manifest lists."""

    path: str
    bytes: int
    digest: str


class LocalContent:
    """The seeds of a cache folder that a push sends.

    Args:
        root: the cache folder.
        seeds: seeds, which must be complete; None for all complete ones.

    Raises:
        CacheError: there is no cache, or a receipt belongs to another one.
        CacheMismatchError: a seed is not there.
        IncompleteCacheError: a seed has shards without receipts, or no seed is complete.
        IntegrityError: an object is missing or has another size.
    """

    def __init__(self, root: Path, seeds: Sequence[int] | None) -> None:
        self.root, self._layout = root, CacheLayout(root)
        self.manifest: Manifest = self._layout.load_manifest()
        try:
            self.manifest_bytes = self._layout.manifest_file.read_bytes()
        except OSError as error:
            raise access_error(error, self._layout.manifest_file) from error
        self.seeds = self._seeds(seeds)
        self.incomplete = tuple(sorted(set(self._layout.seeds()) - set(self.seeds))) if seeds is None else ()
        self.receipts: Mapping[Place, Receipt] = {
            (seed, shard): self._receipt(seed, shard)
            for seed in self.seeds
            for shard in range(self.manifest.shard_count)
        }
        require_sizes(root, self.receipts.values())

    def _seeds(self, seeds: Sequence[int] | None) -> tuple[int, ...]:
        there = self._layout.seeds()
        complete = self._layout.complete_seeds(self.manifest.shard_count)
        advice = "run extract-features again to complete it"
        if seeds is None:
            if not complete:
                raise IncompleteCacheError(f"{self.root}: no seed is complete, so there is nothing to push; {advice}")
            return complete
        if absent := sorted(set(seeds) - set(there)):
            raise CacheMismatchError(f"{self.root}: --seeds: there is no seed {absent[0]}; the cache has {list(there)}")
        if broken := sorted(set(seeds) - set(complete)):
            raise IncompleteCacheError(f"{self.root}: seed {broken[0]} has shards without receipts; {advice}")
        return tuple(seeds)

    def _receipt(self, seed: int, shard: int) -> Receipt:
        receipt = self._layout.load_receipt(seed, shard)
        listed = {stored.array: stored.path for stored in receipt.objects}
        expected = container_of(self.manifest).object_paths(self.manifest, seed, shard)
        if listed != expected or receipt_mismatches(receipt, self.manifest):
            raise SchemaError(
                f"{self._layout.receipt_file(seed, shard)}: this receipt belongs to another cache; "
                "feature-cache verify names all such files"
            )
        return receipt

    def seed_digest(self, seed: int) -> str:
        """Digest of all receipts of a seed."""
        places = ((seed, shard) for shard in range(self.manifest.shard_count))
        return digest_document([self.receipts[place].document()["digest"] for place in places])

    @cached_property
    def manifest_digest(self) -> str:
        """Digest of the bytes of the manifest."""
        return digest_bytes(self.manifest_bytes)

    def encoding_object(self) -> NamedObject | None:
        """The object of the encoding's parameters, if they lie apart from the manifest.

        Raises:
            IntegrityError: it cannot be read.
        """
        if not self.manifest.encoding.apart:
            return None
        document = decode_json(self.manifest_bytes, str(self._layout.manifest_file))["encoding"]
        try:
            size = (self.root / document["object"]).stat().st_size
        except OSError as error:
            raise IntegrityError(f"{self.root / document['object']}: the object of the encoding is missing") from error
        return NamedObject(path=document["object"], bytes=size, digest=DIGEST_PREFIX + document["object_sha256"])

    def objects(self, place: Place) -> list[NamedObject]:
        """The objects of a shard."""
        return [
            NamedObject(path=stored.path, bytes=stored.bytes, digest=stored.digest)
            for stored in self.receipts[place].objects
        ]

    def seed_documents(self) -> dict[str, bytes]:
        """The metadata that each seed has beside its shards, by path."""
        container = container_of(self.manifest)
        return {
            path: json_bytes(document)
            for seed in self.seeds
            for path, document in container.seed_documents(self.manifest, seed).items()
        }
