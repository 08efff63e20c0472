"""Writing one shard of one seed: samples are appended as they come, the receipt is written last."""

from __future__ import annotations

import contextlib
import itertools
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.layout import CacheLayout
from lookonce.cache.zarr_objects import DigestingFile, encode_shard_index, encode_whole_chunk
from lookonce.shared.atomic import TEMPORARY_MARK, storage_error, sync_directory, write_json
from lookonce.storage_schemas.arrays import EMPTY_CHUNK, ArraySpec
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Hole, Receipt, StoredObject


class _ObjectWriter:
    """One sharded array's object, written under a temporary name."""

    def __init__(self, root: Path, path: str, spec: ArraySpec, shard_size: int) -> None:
        self.spec = spec
        self.path = path
        self.target = root / path
        self._temporary = self.target.with_name(f"{self.target.name}{TEMPORARY_MARK}{uuid.uuid4().hex[:12]}")
        self._offsets = np.full(shard_size, EMPTY_CHUNK, dtype=np.uint64)
        self._lengths = self._offsets.copy()
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._handle: BinaryIO = self._temporary.open("wb", buffering=0)
        self._file = DigestingFile(self._handle)

    def append(self, positions: Sequence[int], values: NDArray[Any]) -> None:
        expected = (len(positions), *self.spec.sample_shape)
        if values.shape != expected or values.dtype != self.spec.numpy_dtype:
            raise ValueError(
                f"array {self.spec.name!r}: got {values.dtype} {values.shape}, expected {self.spec.dtype} {expected}"
            )
        size = self.spec.sample_bytes
        self._offsets[list(positions)] = self._file.length + size * np.arange(len(positions), dtype=np.uint64)
        self._lengths[list(positions)] = size
        self._file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def finish(self) -> StoredObject:
        """Write the index of a sharded array, sync, rename."""
        if self.spec.chunking == "sample":
            self._file.write(encode_shard_index(self._offsets, self._lengths))
        os.fsync(self._handle.fileno())
        self._handle.close()
        os.replace(self._temporary, self.target)
        sync_directory(self.target.parent)
        return StoredObject(array=self.spec.name, path=self.path, bytes=self._file.length, digest=self._file.digest)

    def discard(self) -> None:
        self._handle.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)


class ShardWriter:
    """Writes all arrays of one (seed, shard) and then its receipt.

    Until ``commit`` returns, nothing of it counts. Rows may be left out (holes); all others are appended in
    ascending order, so that the same samples always give the same bytes. A context manager: leaving it without
    ``commit`` removes what was written.
    """

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        *,
        seed: int,
        shard: int,
        keys: Sequence[str],
        labels: Sequence[int],
    ) -> None:
        self._layout = CacheLayout(root)
        self._manifest = manifest
        self._seed, self._shard = seed, shard
        self._rows = manifest.shard_rows(shard)
        if not len(keys) == len(labels) == len(self._rows):
            raise ValueError(f"shard {shard} has {len(self._rows)} rows; got {len(keys)} keys and {len(labels)} labels")
        self._keys, self._labels = list(keys), np.asarray(labels, dtype=np.int64)
        self._views = np.zeros((len(self._rows), *manifest.array("view").sample_shape), dtype=np.int32)
        self._next_row = self._rows.start
        self._holes: list[Hole] = []
        self._writers: dict[str, _ObjectWriter] = {}
        try:
            for spec in manifest.arrays:
                path = self._layout.object_path(seed, spec, shard)
                self._writers[spec.name] = _ObjectWriter(root, path, spec, manifest.shard_size)
        except OSError as error:
            self.discard()
            raise storage_error(error, root, "writing") from error

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def append(self, rows: Sequence[int], values: Mapping[str, NDArray[Any]]) -> None:
        """Append samples.

        Args:
            rows: rows of the samples, ascending, after all rows appended before.
            values: for every array but ``key`` and ``label``: shape (len(rows), *sample_shape), the stored dtype.

        Raises:
            ValueError: rows out of order or outside the shard, or a value of another shape or dtype.
            StorageError: the operating system refused the write.
        """
        ordered = all(left < right for left, right in itertools.pairwise(rows))
        if not rows or rows[0] < self._next_row or rows[-1] >= self._rows.stop or not ordered:
            raise ValueError(f"rows {list(rows)} do not continue shard {self._shard} at row {self._next_row}")
        positions = [row - self._rows.start for row in rows]
        self._views[positions] = values["view"]
        for name, writer in self._writers.items():
            if writer.spec.chunking == "sample":
                try:
                    writer.append(positions, values[name])
                except OSError as error:
                    raise storage_error(error, writer.target, "writing") from error
        self._next_row = rows[-1] + 1

    def leave_out(self, row: int, reason: str) -> None:
        """Record that a row is a hole, and why."""
        position = row - self._rows.start
        label = int(self._labels[position])
        self._holes.append(Hole(sample=row, key=self._keys[position], label=label, reason=reason))

    def commit(self, *, statistics: Mapping[str, float], versions: Mapping[str, str]) -> Receipt:
        """Finish all objects, then write the receipt by rename; from then on the shard counts.

        Raises:
            StorageError: the operating system refused; the shard does not count and can be written again.
        """
        whole: dict[str, NDArray[Any] | list[str]] = {"view": self._views, "key": self._keys, "label": self._labels}
        objects = []
        for name, writer in self._writers.items():
            try:
                if writer.spec.chunking == "shard":
                    writer.write(encode_whole_chunk(whole[name], writer.spec, self._manifest.shard_size))
                objects.append(writer.finish())
            except OSError as error:
                raise storage_error(error, writer.target, "writing") from error
        receipt = Receipt(
            fingerprint=self._manifest.recipe.fingerprint,
            encoding=self._manifest.encoding.digest,
            seed=self._seed,
            shard=self._shard,
            first_sample=self._rows.start,
            samples=len(self._rows),
            holes=tuple(sorted(self._holes, key=lambda hole: hole.sample)),
            objects=tuple(objects),
            statistics=dict(statistics),
            versions=dict(versions),
        )
        write_json(self._layout.receipt_file(self._seed, self._shard), receipt.document())
        return receipt

    def discard(self) -> None:
        """Remove temporary files; harmless after ``commit``."""
        for writer in self._writers.values():
            writer.discard()
