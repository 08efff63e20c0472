"""Opens a seed as a stock zarr group whose ``targets`` are floats; nothing is written.

Values of most precisions are stored one by one: zarr reads the chunks on disk with other metadata, and a codec
decodes them. A KLT precision codes a view as a whole, in three arrays: each chunk that zarr asks for is decoded by
``CacheReader``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from functools import cached_property
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
from lookonce.storage_schemas.arrays import ArraySpec as ZarrArray
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.precision import ElementPrecision, get_element_precision, get_precision

_TARGETS = "targets/zarr.json"
_TARGETS_CHUNK = re.compile(r"targets/c/(\d+)/0/0/0")


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
    if isinstance(get_precision(manifest.encoding.precision), ElementPrecision):
        store = _DecodedStore(chunks, json_bytes(decoded_targets_metadata(manifest)))
    else:
        store = _DecodedViews(chunks, json_bytes(_views_metadata(manifest)), _Views(root, seed))
    return zarr.open_group(store, mode="r")


def _views_metadata(manifest: Manifest) -> dict[str, Any]:
    """``zarr.json`` of plain float32 values, one chunk per view."""
    teacher, tokens = manifest.recipe.teacher, manifest.recipe.stored_patches + 1
    values = ZarrArray(
        name="targets",
        dtype="float32",
        sample_shape=(tokens, len(teacher.blocks), teacher.width),
        dimensions=("token", "layer", "channel"),
        chunking="shard",
    )
    return {**values.zarr_metadata(manifest.samples, shard_size=1), "fill_value": "NaN"}


def decoded_targets_metadata(manifest: Manifest) -> dict[str, Any]:
    """The ``zarr.json`` by which stock zarr decodes ``targets``: that on disk with the codec above ``bytes``.

    Raises:
        UsageError: the precision of the cache codes views as a whole.
    """
    get_element_precision(manifest.encoding.precision)
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


@dataclass(frozen=True)
class _Views:
    """Decoded views of one seed; it pickles as its two fields."""

    root: Path
    seed: int

    @cached_property
    def _reader(self) -> CacheReader:
        return CacheReader(self.root, seeds=[self.seed])

    @cached_property
    def _present(self) -> frozenset[int]:
        return frozenset(self._reader.rows(self.seed).tolist())

    def values(self, row: int) -> bytes | None:
        """Values float32 (token, layer, channel) of a row as bytes; None if the row is a hole."""
        if row not in self._present:
            return None
        content: bytes = self._reader.read_targets([self.seed], [row])[0].astype("<f4").tobytes()
        return content

    def __reduce__(self) -> tuple[type[_Views], tuple[Path, int]]:
        return _Views, (self.root, self.seed)


class _DecodedViews(_DecodedStore):
    """A seed's folder with other metadata and other chunks for ``targets``; read only."""

    def __init__(self, store: LocalStore, targets: bytes, views: _Views) -> None:
        super().__init__(store, targets)
        self._views = views

    def _with_store(self, store: LocalStore) -> _DecodedViews:
        return _DecodedViews(store, self._targets, self._views)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if (chunk := _TARGETS_CHUNK.fullmatch(key)) is None:
            return await super().get(key, prototype, byte_range)
        values = await asyncio.to_thread(self._views.values, int(chunk[1]))
        if values is None:
            return None
        memory = MemoryStore({key: prototype.buffer.from_bytes(values)}, read_only=True)
        return await memory.get(key, prototype, byte_range)
