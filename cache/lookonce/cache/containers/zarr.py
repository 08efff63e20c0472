"""zarr v3: one object per array and shard, one zarr group per seed. Any zarr v3 library opens it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.advice import REPAIR
from lookonce.cache.containers.container import Container, ObjectContent, Places, ShardSink, seed_folder
from lookonce.cache.containers.object_file import ObjectFile, write_together
from lookonce.cache.containers.zarr_objects import (
    VARIABLE_HEADER,
    decode_whole_chunk,
    empty_chunk_bytes,
    encode_shard_index,
    encode_whole_chunk,
    sample_chunks,
    shard_index_bytes,
    variable_header,
)
from lookonce.shared.errors import IntegrityError
from lookonce.storage_schemas.arrays import EMPTY_CHUNK, VIEW_FIELDS, ArraySpec, zarr_group_metadata
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import StoredObject


class ZarrSink(ShardSink):
    """Appends each array's samples to its object; the index of a sharded array comes last."""

    def __init__(
        self,
        root: Path,
        paths: Mapping[str, str],
        manifest: Manifest,
        shard: int,
        keys: Sequence[str],
        labels: Sequence[int],
    ) -> None:
        self._manifest, self._rows = manifest, manifest.shard_rows(shard)
        view = np.zeros((len(self._rows), *manifest.array("view").sample_shape), dtype=np.int32)
        self._columns: dict[str, Any] = {"view": view, "key": keys, "label": np.asarray(labels, dtype=np.int64)}
        sharded = [spec.name for spec in manifest.arrays if spec.chunking == "sample"]
        self._chunks = {name: np.full((2, manifest.shard_size), EMPTY_CHUNK, dtype=np.uint64) for name in sharded}
        """Start and length of the chunk of each row."""
        self.files: dict[str, ObjectFile] = {}
        try:
            for name, path in paths.items():
                self.files[name] = ObjectFile(root, name, path)
        except OSError:
            self.discard()
            raise

    def append(self, rows: Sequence[int], values: Mapping[str, NDArray[Any]]) -> None:
        """Append samples to every object at once."""
        positions = [row - self._rows.start for row in rows]
        self._columns["view"][positions] = values["view"]
        parts: list[tuple[ObjectFile, bytes | NDArray[Any]]] = []
        for name, chunks in self._chunks.items():
            spec, data = self._manifest.array(name), values[name]
            if spec.variable:
                lengths = np.array([VARIABLE_HEADER + len(value) for value in data], dtype=np.uint64)
                written = b"".join(part for value in data for part in (variable_header(len(value)), value))
                parts.append((self.files[name], written))
            else:
                lengths = np.full(len(positions), spec.sample_bytes, dtype=np.uint64)
                parts.append((self.files[name], np.ascontiguousarray(data)))
            starts = np.uint64(self.files[name].length) + np.cumsum(lengths, dtype=np.uint64) - lengths
            chunks[:, positions] = starts, lengths
        write_together(parts)

    def finish(self) -> list[StoredObject]:
        """Write indices and columns, sync and rename."""
        size = self._manifest.shard_size
        for spec in self._manifest.arrays:
            if spec.chunking == "sample":
                self.files[spec.name].write(encode_shard_index(*self._chunks[spec.name]))
            else:
                self.files[spec.name].write(encode_whole_chunk(self._columns[spec.name], spec, size))
        return [file.finish() for file in self.files.values()]

    def discard(self) -> None:
        """Remove temporary files."""
        for file in self.files.values():
            file.discard()


class ZarrContainer(Container):
    """Objects are named after their arrays."""

    name: ClassVar[str] = "zarr"

    def seed_documents(self, manifest: Manifest, seed: int) -> dict[str, dict[str, Any]]:
        """``zarr.json`` of the group, then of each array."""
        attributes = {
            "lookonce": {
                "seed": seed,
                "fingerprint": manifest.recipe.fingerprint,
                "precision": manifest.encoding.precision,
                "view_fields": list(VIEW_FIELDS),
            }
        }
        folder = seed_folder(seed)
        documents = {f"{folder}/zarr.json": zarr_group_metadata(attributes)}
        for spec in manifest.arrays:
            documents[f"{folder}/{spec.name}/zarr.json"] = spec.zarr_metadata(manifest.samples, manifest.shard_size)
        return documents

    def object_paths(self, manifest: Manifest, seed: int, shard: int) -> dict[str, str]:
        """One object per array."""
        return {spec.name: f"{seed_folder(seed)}/{spec.chunk_path(shard)}" for spec in manifest.arrays}

    def object_of(self, array: str) -> str:
        """The object of an array has the array's name."""
        return array

    def open_sink(
        self, root: Path, manifest: Manifest, seed: int, shard: int, keys: Sequence[str], labels: Sequence[int]
    ) -> ShardSink:
        """Open all files of a shard."""
        return ZarrSink(root, self.object_paths(manifest, seed, shard), manifest, shard, keys, labels)

    def sample_bytes(self, manifest: Manifest) -> int:
        """One inner chunk of each sharded array."""
        return sum(spec.sample_bytes for spec in manifest.arrays if spec.chunking == "sample")

    def variable_bytes(self, length: int) -> int:
        """The value and its header."""
        return VARIABLE_HEADER + length

    def shard_bytes(self, manifest: Manifest) -> int:
        """Bytes of indices, and of columns with empty strings; a short shard has ``shard_size`` entries too."""
        size, index = manifest.shard_size, shard_index_bytes(manifest.shard_size)
        return sum(index if spec.chunking == "sample" else empty_chunk_bytes(spec, size) for spec in manifest.arrays)

    def key_bytes(self, row: int, key: str, label: int, seed: int) -> int:
        """The key in UTF-8."""
        return len(key.encode("utf-8"))

    def places(self, content: ObjectContent) -> dict[str, Places]:
        """From the shard index at the object's end."""
        spec = content.manifest.array(content.stored.array)
        if spec.chunking != "sample":
            return {}
        chunks = self._chunks(content, spec)
        if not spec.variable:
            same = np.broadcast_to(np.int64(spec.sample_bytes), chunks.starts.shape)
            return {spec.name: Places(chunks.starts, same)}
        starts = np.where(chunks.starts < 0, -1, chunks.starts + VARIABLE_HEADER)
        return {spec.name: Places(starts, chunks.lengths - VARIABLE_HEADER)}

    def _chunks(self, content: ObjectContent, spec: ArraySpec) -> Places:
        return sample_chunks(content.data.data, spec, content.manifest.shard_size, content.where)

    def column(self, content: ObjectContent, spec: ArraySpec) -> NDArray[Any]:
        """The one chunk of the object."""
        chunk = decode_whole_chunk(content.data.tobytes(), spec, content.manifest.shard_size, content.where)
        return chunk[: content.receipt.samples]

    def check(self, content: ObjectContent) -> None:
        """Decode a column; compare an index with the receipt's samples, which must not share bytes; check headers."""
        spec = content.manifest.array(content.stored.array)
        if spec.chunking == "shard":
            self.column(content, spec)
            return
        chunks = self._chunks(content, spec)
        first = content.receipt.first_sample
        absent = set(np.flatnonzero(chunks.starts < 0).tolist())
        holes = {hole.sample - first for hole in content.receipt.holes}
        differing = absent ^ (holes | set(range(content.receipt.samples, content.manifest.shard_size)))
        if differing:
            found = "no sample" if min(differing) in absent else "a sample"
            raise IntegrityError(
                f"{content.where}: its index has {found} for row {first + min(differing)}, which contradicts its "
                f"receipt ({len(differing)} such rows); {REPAIR}"
            )
        order = np.argsort(chunks.starts, kind="stable")[len(absent) :]
        if (np.diff(chunks.starts[order]) < chunks.lengths[order][:-1]).any():
            raise IntegrityError(f"{content.where}: its index gives two samples the same bytes; {REPAIR}")
        for position in order.tolist() if spec.variable else ():
            start, length = chunks.starts.item(position), chunks.lengths.item(position)
            header = content.data[start : start + VARIABLE_HEADER].tobytes()
            if header != variable_header(length - VARIABLE_HEADER):
                raise IntegrityError(
                    f"{content.where}: no header of a value of {length - VARIABLE_HEADER} bytes at byte {start}, where "
                    f"row {first + position} begins; {REPAIR}"
                )
