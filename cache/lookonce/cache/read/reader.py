"""Reads samples of a cache by (seed, row), visible tokens only, at the speed of memory.

A reader is thread-safe, picklable (the other process opens its own maps) and needs O(shards) memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.advice import RESUME
from lookonce.cache.containers import ObjectContent, container_of
from lookonce.cache.layout import CacheLayout, receipt_path
from lookonce.cache.read.cache_files import CacheFiles, FolderFiles
from lookonce.cache.read.mapped_objects import MappedObject, MapPool, Memory, bytes_of
from lookonce.cache.read.readahead import Readahead, ReadaheadMode
from lookonce.shared.errors import CacheMismatchError, IntegrityError, UsageError
from lookonce.storage_schemas.arrays import target_shape
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.precision import get_element_precision, get_precision
from lookonce.storage_schemas.receipt import Receipt, StoredObject

Check = Literal["first-use", "never"]
"""When the digest of an object is checked: when a process first maps it, or never. Sizes are always checked."""

OPENED_TOGETHER = 16
"""Shards of which a column is read at a time, if they have to be fetched first."""


def open_cache(
    root: Path | str,
    *,
    seeds: Sequence[int] | None = None,
    check: Check = "first-use",
    readahead: ReadaheadMode = "auto",
) -> CacheReader:
    """Open a cache for reading.

    Args:
        root: the cache folder.
        seeds: seeds to read, which must be complete; None for every seed with receipts.
        check: when digests of objects are checked.
        readahead: what ``CacheReader.prefetch`` does.

    Raises:
        CacheError: there is no cache at ``root``.
        SchemaError: its manifest or a receipt is invalid.
        IncompleteCacheError: a wanted seed is missing or has shards without receipts.
    """
    return CacheReader(Path(root).expanduser(), seeds=seeds, check=check, readahead=readahead)


class CacheReader:
    """A complete cache, open for reading.

    Args:
        cache: the cache folder, or the files of a cache at a URL.
        seeds: seeds to read, which must be complete; None for every seed with receipts.
        check: when digests of objects are checked.
        readahead: what ``prefetch`` does.

    Raises:
        CacheError: there is no cache.
        SchemaError: its manifest or a receipt is invalid.
        IncompleteCacheError: a wanted seed is missing or has shards without receipts.
        IntegrityError: an object is missing or has the wrong size.
        AccessError: a document cannot be accessed.
    """

    def __init__(
        self,
        cache: Path | CacheFiles,
        *,
        seeds: Sequence[int] | None = None,
        check: Check = "first-use",
        readahead: ReadaheadMode = "auto",
    ) -> None:
        self.files: CacheFiles = FolderFiles(cache) if isinstance(cache, Path) else cache
        self.place = self.files.place
        """Folder or URL of the cache, for messages."""
        self.manifest: Manifest = self.files.load_manifest()
        self._receipts = self.files.load_receipts(self.manifest, seeds)
        self.seeds: tuple[int, ...] = tuple(dict.fromkeys(seed for seed, _ in self._receipts))
        self._check = check
        self.readahead = Readahead(readahead)
        self._container = container_of(self.manifest)
        self._pool = MapPool()
        self._precision = get_precision(self.manifest.encoding.precision)

    @property
    def root(self) -> Path:
        """The cache folder.

        Raises:
            UsageError: the cache is read from a URL.
        """
        return self._folder().root

    @property
    def layout(self) -> CacheLayout:
        """Layout of the cache folder; raises as ``root``."""
        return self._folder().layout

    def _folder(self) -> FolderFiles:
        if not isinstance(self.files, FolderFiles):
            raise UsageError(f"{self.place}: this cache is read from a URL, and a folder is needed; pull it first")
        return self.files

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_pool"]
        state["readahead"] = self.readahead.mode
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.readahead = Readahead(state["readahead"])
        self._pool = MapPool()

    def rows(self, seed: int) -> NDArray[np.int64]:
        """Rows of a seed that are not holes, int64, ascending."""
        present = np.ones(self.manifest.samples, dtype=bool)
        for shard in range(self.manifest.shard_count):
            for hole in self._receipts[seed, shard].holes:
                present[hole.sample] = False
        return np.flatnonzero(present)

    def receipts(self, seed: int) -> list[Receipt]:
        """All receipts of a seed, in order of shards."""
        return [self._receipts[seed, shard] for shard in range(self.manifest.shard_count)]

    def layer_positions(self, blocks: Sequence[int]) -> list[int]:
        """Positions on the layer axis of the given 1-based teacher blocks.

        Raises:
            CacheMismatchError: the cache lacks one of them; the message lists its blocks.
        """
        stored = self.manifest.recipe.teacher.blocks
        missing = [block for block in blocks if block not in stored]
        if missing:
            raise CacheMismatchError(
                f"{self.place}: blocks {', '.join(map(str, missing))} are not in this cache, which has blocks "
                f"{', '.join(map(str, stored))} of {self.manifest.recipe.teacher.block_count}; "
                "extract them with --layers, or choose other layer weights"
            )
        return [stored.index(block) for block in blocks]

    def column(self, name: str, seed: int, rows: range | None = None) -> NDArray[Any]:
        """A ``chunking="shard"`` array of a seed (``key``, ``label`` or ``view``).

        Args:
            name: array name.
            seed: augmentation seed.
            rows: consecutive rows, at least one; None for all.

        Returns:
            The array's dtype, shape (rows, ...).
        """
        spec, size = self.manifest.array(name), self.manifest.shard_size
        rows = range(self.manifest.samples) if rows is None else rows
        first = rows.start // size
        shards = range(first, (rows.stop - 1) // size + 1)
        parts = []
        for start in range(0, len(shards), OPENED_TOGETHER):
            some = shards[start : start + OPENED_TOGETHER]
            with self.files.together([stored for shard in some for stored in self.objects([name], seed, shard)]):
                parts += [
                    self._container.column(self._map(self._container.object_of(name), seed, shard)[1], spec)
                    for shard in some
                ]
        joined: NDArray[Any] = np.concatenate(parts)
        return joined[rows.start - first * size : rows.stop - first * size]

    def read(
        self,
        name: str,
        seeds: Sequence[int] | NDArray[np.int64],
        rows: Sequence[int] | NDArray[np.int64],
        tokens: NDArray[np.int64] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Gather stored samples of a ``chunking="sample"`` array.

        Args:
            name: array name.
            seeds: seed of each sample, length B.
            rows: row of each sample, length B.
            tokens: int64 (B, k), positions on the first axis of a sample (tokens or patches); None for all.
            out: C-contiguous array for the result, with its shape and dtype, such as pinned memory.

        Returns:
            Stored dtype, (B, k, ...) with ``tokens``, else (B, *sample_shape). Of an array of dtype ``bytes``: object
            (B,) with bytes, always new.

        Raises:
            IntegrityError: a sample is a hole, or an object is damaged.
            AccessError: an object cannot be accessed.
            ValueError: a position is out of range, or ``out`` does not fit.
        """
        spec = self.manifest.array(name)
        if spec.variable:
            return self._read_bytes(name, seeds, rows)
        count = len(rows)
        picked = spec.sample_shape if tokens is None else (tokens.shape[1], *spec.sample_shape[1:])
        result = np.empty((count, *picked), dtype=spec.numpy_dtype) if out is None else out
        if result.shape != (count, *picked) or result.dtype != spec.numpy_dtype or not result.flags.c_contiguous:
            raise ValueError(
                f"out must be C-contiguous {spec.dtype} {(count, *picked)}, got {result.dtype} {result.shape}"
            )
        records = spec.sample_shape[0] if spec.sample_shape else 1
        if not result.size:
            return result
        if tokens is not None and not 0 <= tokens.min() <= tokens.max() < records:
            raise ValueError(
                f"tokens must be 0 to {records - 1} for array {name!r}, got {tokens.min()} to {tokens.max()}"
            )
        length = spec.sample_bytes
        record_type = np.dtype((np.void, length // records))
        flat = result.reshape(count, -1).view(np.uint8).view(record_type)
        for position, (mapped, start, _) in enumerate(self._places(name, seeds, rows)):
            source = mapped.data[start : start + length].view(record_type)
            if tokens is None:
                flat[position] = source
            else:
                # mode="clip" skips numpy's buffering of out; nothing is clipped
                source.take(tokens[position], out=flat[position], mode="clip")
        return result

    def _read_bytes(self, name: str, seeds: Any, rows: Any) -> NDArray[np.object_]:
        result = np.empty(len(rows), dtype=object)
        for position, (mapped, start, length) in enumerate(self._places(name, seeds, rows)):
            result[position] = mapped.data[start : start + length].tobytes()
        return result

    def decode(self, stored: NDArray[Any], layers: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Decode ``targets`` elements (..., layer, stored channel) to float32; the numpy reference.

        This is for precisions that store values one by one; ``read_targets`` serves all.

        Args:
            stored: elements as ``read`` returns them.
            layers: positions on the layer axis of the cache that ``stored`` contains; None for all.
        """
        encoding, width = self.manifest.encoding, self.manifest.recipe.teacher.width
        precision = get_element_precision(encoding.precision)
        return precision.decode(stored, encoding.parameters, channels=width, layers=layers)

    def read_targets(
        self,
        seeds: Sequence[int] | NDArray[np.int64],
        rows: Sequence[int] | NDArray[np.int64],
        tokens: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """Read and decode targets of samples; the numpy reference.

        Args:
            seeds: seed of each sample, length B.
            rows: row of each sample, length B.
            tokens: int64 (B, n): positions among the stored tokens, 0 for the class token, which must come first; None
                for all.

        Returns:
            float32 (B, n, layer, channel).

        Raises:
            IntegrityError: a sample is a hole, or an object is damaged.
            AccessError: the operating system denies access to an object.
            ValueError: a position that the cache does not have.
        """
        shape, encoding = target_shape(self.manifest.recipe), self.manifest.encoding
        picked = {"all": tokens, "patches": None if tokens is None else tokens[:, 1:] - 1, "none": None}
        arrays = self._precision.arrays(shape)
        stored = {array.name: self.read(array.name, seeds, rows, picked[array.tokens]) for array in arrays}
        return self._precision.decode_views(stored, encoding.parameters, shape, tokens)

    def prefetch(
        self,
        names: Sequence[str],
        seeds: Sequence[int] | NDArray[np.int64],
        rows: Sequence[int] | NDArray[np.int64],
    ) -> None:
        """Announce samples that will be read soon, best a batch ahead, so that a cold disk can load them.

        ``readahead`` decides what happens. Any thread may call it, and it changes no result.

        Args:
            names: arrays that will be read.
            seeds: seed of each sample, length B.
            rows: row of each sample, length B.

        Raises:
            IntegrityError: a sample is a hole, or an object is damaged.
        """
        if self.readahead.mode == "none":
            return
        if not isinstance(self.files, FolderFiles):  # what is not open yet may not be there, and is not waited for
            size, find = self.manifest.shard_size, self._pool.find
            shards = list(zip(np.asarray(seeds).tolist(), (np.asarray(rows) // size).tolist(), strict=True))
            objects = {self._container.object_of(name) for name in names}
            is_open = {place: all(find((name, *place)) for name in objects) for place in set(shards)}
            here = np.fromiter((is_open[place] for place in shards), dtype=bool, count=len(shards))
            seeds, rows = np.asarray(seeds)[here], np.asarray(rows)[here]
        self.readahead.announce([place for name in names for place in self._places(name, seeds, rows)])

    def objects(self, names: Sequence[str], seed: int, shard: int) -> tuple[StoredObject, ...]:
        """The objects of a shard that contain some arrays.

        Args:
            names: arrays.
            seed: augmentation seed.
            shard: the shard.
        """
        receipt = self._receipts[seed, shard]
        wanted = dict.fromkeys(self._container.object_of(name) for name in names)
        return tuple(self._stored(name, receipt) for name in wanted)

    def close_objects(self, names: Sequence[str], seed: int, shard: int) -> None:
        """Close the maps of a shard's objects, so that the disk gets their space back once they are deleted.

        Args:
            names: arrays whose objects are closed; reading them again maps them again.
            seed: augmentation seed.
            shard: the shard.
        """
        for name in {self._container.object_of(name) for name in names}:
            self._pool.drop((name, seed, shard))

    def _places(self, name: str, seeds: Any, rows: Any) -> Iterator[tuple[MappedObject, int, int]]:
        """Object, first byte and length of each sample; maps stay referenced only as long as the pool keeps them."""
        object_name, find = self._container.object_of(name), self._pool.find
        shards, positions = np.divmod(np.asarray(rows, dtype=np.int64), self.manifest.shard_size)
        numbers = np.asarray(seeds, dtype=np.int64).tolist()
        for seed, shard, place in zip(numbers, shards.tolist(), positions.tolist(), strict=True):
            mapped = find((object_name, seed, shard)) or self._open(object_name, seed, shard)
            places = mapped.places[name]
            start = places.starts.item(place)
            if start < 0:
                row = shard * self.manifest.shard_size + place
                raise IntegrityError(f"{self.place}: row {row} of seed {seed} is a hole")
            yield mapped, start, places.lengths.item(place)

    def _open(self, name: str, seed: int, shard: int) -> MappedObject:
        memory, content = self._map(name, seed, shard)
        mapped = MappedObject(memory, content.data, self._container.places(content))
        self.readahead.prepare(mapped)
        self._pool.add((name, seed, shard), mapped)
        return mapped

    def _map(self, name: str, seed: int, shard: int) -> tuple[Memory, ObjectContent]:
        receipt = self._receipts[seed, shard]
        stored = self._stored(name, receipt)
        memory = self.files.open_object(stored, check=self._check == "first-use")
        return memory, ObjectContent(data=bytes_of(memory), stored=stored, receipt=receipt, manifest=self.manifest)

    def _stored(self, name: str, receipt: Receipt) -> StoredObject:
        expected = self._container.object_paths(self.manifest, receipt.seed, receipt.shard).get(name)
        for stored in receipt.objects:
            if stored.array == name and stored.path == expected:
                return stored
        raise IntegrityError(
            f"{self.place}/{receipt_path(receipt.seed, receipt.shard)}: this receipt does not list the object {name!r} "
            f"at {expected}; {RESUME}"
        )
