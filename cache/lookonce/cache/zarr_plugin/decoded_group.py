"""Opens a seed as a stock zarr group whose ``targets`` are floats: the chunks on disk with other metadata."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from lookonce.cache.advice import RESUME
from lookonce.cache.committed import is_committed
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.zarr_plugin.codec import TargetsCodec
from lookonce.shared.errors import CacheMismatchError, IntegrityError
from lookonce.shared.files.atomic import json_bytes
from lookonce.storage_schemas.manifest import Manifest

_TARGETS = "targets/zarr.json"


def open_decoded(root: Path, seed: int) -> zarr.Group:
    """Open one seed of a cache in container ``zarr``, read-only, with decoded ``targets``.

    ``targets`` are float32 (sample, token, layer, channel); all other arrays are as on disk. Holes read as NaN. Digests
    are not checked; ``feature-cache verify --full`` checks them.

    Args:
        root: the cache folder.
        seed: augmentation seed.

    Raises:
        CacheError: there is no cache at ``root``.
        SchemaError: its manifest or a receipt is invalid.
        IncompleteCacheError: the seed is missing or has shards without receipts.
        IntegrityError: an object is missing or has the wrong size.
        CacheMismatchError: the cache has another container.
    """
    reader = CacheReader(root, seeds=[seed])
    manifest = reader.manifest
    if manifest.container != "zarr":
        raise CacheMismatchError(
            f"{root}: its container is {manifest.container}, which zarr cannot read; "
            f"write it as zarr first: feature-cache convert {root} NEW --format zarr"
        )
    for shard in range(manifest.shard_count):
        # zarr would read missing objects as holes
        if not is_committed(reader.layout, manifest, seed, shard):
            raise IntegrityError(
                f"{root}: an object of seed {seed}, shard {shard} is missing or has the wrong size "
                f"(feature-cache verify names it); {RESUME}"
            )
    chunks = LocalStore(reader.layout.seed_folder(seed), read_only=True)
    return zarr.open_group(_DecodedStore(chunks, json_bytes(decoded_targets_metadata(manifest))), mode="r")


def decoded_targets_metadata(manifest: Manifest) -> dict[str, Any]:
    """The ``zarr.json`` by which stock zarr decodes ``targets``: that on disk with the codec above ``bytes``."""
    teacher, spec = manifest.recipe.teacher, manifest.array("targets")
    codec = TargetsCodec(encoding=manifest.encoding, layers=len(teacher.blocks), channels=teacher.width)
    document = spec.zarr_metadata(manifest.samples, manifest.shard_size)
    sharding = document["codecs"][0]["configuration"]
    grid = document["chunk_grid"]["configuration"]
    for part, field in ((document, "shape"), (grid, "chunk_shape"), (sharding, "chunk_shape")):
        part[field] = [*part[field][:-1], teacher.width]
    # zarr asks for the endianness of the array's dtype, which is float32, and ignores it for single bytes
    sharding["codecs"] = [codec.to_dict(), {"name": "bytes", "configuration": {"endian": "little"}}]
    return {**document, "data_type": "float32", "fill_value": "NaN"}


class _DecodedStore(WrapperStore[LocalStore]):
    """A seed's folder with one document replaced; read only."""

    def __init__(self, store: LocalStore, targets: bytes) -> None:
        super().__init__(store)
        self._targets = targets

    def _with_store(self, store: LocalStore) -> _DecodedStore:
        return _DecodedStore(store, self._targets)

    def with_read_only(self, read_only: bool = False) -> _DecodedStore:
        if not read_only:
            raise ValueError("a decoded cache is read only")
        return self

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if key != _TARGETS:
            return await self._store.get(key, prototype, byte_range)
        document = MemoryStore({key: prototype.buffer.from_bytes(self._targets)}, read_only=True)
        return await document.get(key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        async for found in Store._get_many(self, requests):  # uses ``get`` of this class, not of the store below
            yield found
