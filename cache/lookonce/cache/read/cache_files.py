"""Where a reader gets the documents and objects of a cache: from its folder, or from a URL object by object."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from lookonce.cache.committed import receipt_mismatches, require_sizes
from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.mapped_objects import Memory, map_file
from lookonce.shared.errors import IncompleteCacheError, IntegrityError
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt, StoredObject

Receipts = Mapping[tuple[int, int], Receipt]
"""Receipts by seed and shard."""


class CacheFiles(Protocol):
    """Documents and objects of one cache; thread-safe and picklable."""

    @property
    def place(self) -> str:
        """Folder or URL, for messages."""
        ...

    def load_manifest(self) -> Manifest:
        """The manifest.

        Raises:
            CacheError: there is none, or it is invalid.
        """
        ...

    def load_receipts(self, manifest: Manifest, seeds: Sequence[int] | None) -> Receipts:
        """The receipts of complete seeds, by seed, then shard.

        Args:
            manifest: the manifest.
            seeds: seeds to read, which must be complete; None for all.

        Raises:
            IncompleteCacheError: a wanted seed is missing or has shards without receipts.
            CacheError: a receipt is invalid, or an object is missing.
        """
        ...

    def open_object(self, stored: StoredObject, *, check: bool) -> Memory:
        """Map an object that has the size of its receipt, and the digest if ``check`` and it is the first time.

        Raises:
            IntegrityError: the object is missing or has other bytes.
            StorageError: the object cannot be read, or cannot be fetched.
        """
        ...

    def together(self, objects: Sequence[StoredObject]) -> contextlib.AbstractContextManager[None]:
        """Inside, these objects will be opened; if they have to be fetched, this is done at the same time."""
        ...


class FolderFiles:
    """A cache folder. See ``CacheFiles`` for the methods.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.layout = root, CacheLayout(root)
        self._digested = set[str]()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_digested": set[str]()}

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root)

    def load_manifest(self) -> Manifest:
        """See ``CacheFiles``."""
        return self.layout.load_manifest()

    def load_receipts(self, manifest: Manifest, seeds: Sequence[int] | None) -> Receipts:
        """See ``CacheFiles``."""
        there = self.layout.seeds()
        wanted = there if seeds is None else tuple(seeds)
        if not wanted:
            raise IncompleteCacheError(f"{self.root}: no shard has a receipt; run extract-features again to resume")
        if absent := [seed for seed in wanted if seed not in there]:
            listed, has = (", ".join(map(str, some)) for some in (absent, there))
            raise IncompleteCacheError(
                f"{self.root}: this cache has no seed {listed}, it has {has}; choose these, or extract the others "
                f"(extract-features ... --seeds {listed.replace(' ', '')})"
            )
        receipts = {}
        for seed in wanted:
            present = set(self.layout.receipted_shards(seed))
            missing = [shard for shard in range(manifest.shard_count) if shard not in present]
            if missing:
                listed = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
                raise IncompleteCacheError(
                    f"{self.root}: seed {seed} has no receipt for {len(missing)} of {manifest.shard_count} shards "
                    f"({listed}); run extract-features with the same arguments to resume, or choose other seeds "
                    f"(there are {', '.join(map(str, there))})"
                )
            for shard in range(manifest.shard_count):
                receipts[seed, shard] = self._checked_receipt(manifest, seed, shard)
        require_sizes(self.root, receipts.values())
        return receipts

    def _checked_receipt(self, manifest: Manifest, seed: int, shard: int) -> Receipt:
        receipt = self.layout.load_receipt(seed, shard)
        if differing := receipt_mismatches(receipt, manifest):
            listed = ", ".join(f"{field} is {found}, expected {wanted}" for field, (found, wanted) in differing.items())
            raise IntegrityError(
                f"{self.layout.receipt_file(seed, shard)}: this receipt belongs to another cache ({listed}); "
                "delete it and run the extraction again"
            )
        return receipt

    def open_object(self, stored: StoredObject, *, check: bool) -> Memory:
        """See ``CacheFiles``."""
        check_digest = check and stored.path not in self._digested
        memory = map_file(self.root / stored.path, stored, check_digest=check_digest)
        if check_digest:
            self._digested.add(stored.path)
        return memory

    def together(self, objects: Sequence[StoredObject]) -> contextlib.AbstractContextManager[None]:
        """See ``CacheFiles``: they are there."""
        return contextlib.nullcontext()
