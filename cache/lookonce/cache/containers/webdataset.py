"""WebDataset: one uncompressed tar per shard. The ``webdataset`` library reads it with its default decoders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.advice import REPAIR
from lookonce.cache.containers.container import Container, ObjectContent, Places, ShardSink, seed_folder
from lookonce.cache.containers.object_file import ObjectFile
from lookonce.cache.containers.unmapped import FileBytes
from lookonce.cache.containers.webdataset_members import (
    BLOCK,
    END_MARK,
    FACTS,
    PICTURE,
    VIEW,
    SampleLayout,
    member_header,
    member_name,
    member_size,
    padded,
)
from lookonce.shared.canonical import canonical_json
from lookonce.shared.errors import IntegrityError
from lookonce.storage_schemas.arrays import JPEG, VIEW_FIELDS, ArraySpec
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import StoredObject

OBJECT = "shard"
"""Name of the one object of a shard."""


class WebDatasetSink(ShardSink):
    """Appends the members of each sample to the tar."""

    def __init__(
        self,
        root: Path,
        path: str,
        manifest: Manifest,
        seed: int,
        shard: int,
        keys: Sequence[str],
        labels: Sequence[int],
    ) -> None:
        self._layout, self._seed, self._first = SampleLayout(manifest), seed, manifest.shard_rows(shard).start
        self._keys, self._labels = keys, labels
        self.file = ObjectFile(root, OBJECT, path)

    def append(self, rows: Sequence[int], values: Mapping[str, NDArray[Any]]) -> None:
        """Append complete samples, a batch in one write."""
        parts: list[bytes | memoryview] = []
        for position, row in enumerate(rows):
            parts += self._member(row, FACTS, self._facts(row))
            parts += self._member(row, VIEW, view_json(values["view"][position]))
            for member in self._layout.arrays:
                value = np.ascontiguousarray(values[member.spec.name][position])
                parts += [member_header(row, member.suffix, member.size), member.npy, value.data.cast("B")]
                parts.append(bytes(padded(member.size) - member.size))
            if self._layout.jpeg:
                parts += self._member(row, PICTURE, values[JPEG][position])
        self.file.write(b"".join(parts))

    def _facts(self, row: int) -> bytes:
        position = row - self._first
        return facts_json(self._keys[position], int(self._labels[position]), row, self._seed)

    def _member(self, row: int, suffix: str, content: bytes) -> list[bytes]:
        return [member_header(row, suffix, len(content)), content.ljust(padded(len(content)), b"\0")]

    def finish(self) -> list[StoredObject]:
        """Write the end mark, sync and rename."""
        self.file.write(END_MARK)
        return [self.file.finish()]

    def discard(self) -> None:
        """Remove the temporary file."""
        self.file.discard()


class WebDatasetContainer(Container):
    """A shard is one object, ``shard``; a seed's folder contains nothing else."""

    name: ClassVar[str] = "webdataset"

    def seed_documents(self, manifest: Manifest, seed: int) -> dict[str, dict[str, Any]]:
        """None: a tar contains all that its readers need."""
        return {}

    def object_paths(self, manifest: Manifest, seed: int, shard: int) -> dict[str, str]:
        """One tar."""
        return {OBJECT: f"{seed_folder(seed)}/shard-{shard:05d}.tar"}

    def object_of(self, array: str) -> str:
        """All arrays lie in the tar."""
        return OBJECT

    def open_sink(
        self, root: Path, manifest: Manifest, seed: int, shard: int, keys: Sequence[str], labels: Sequence[int]
    ) -> ShardSink:
        """Open the tar."""
        path = self.object_paths(manifest, seed, shard)[OBJECT]
        return WebDatasetSink(root, path, manifest, seed, shard, keys, labels)

    def sample_bytes(self, manifest: Manifest) -> int:
        """Bytes of all members of a sample except the first and the JPEG, whose sizes vary."""
        return SampleLayout(manifest).rest

    def variable_bytes(self, length: int) -> int:
        """A member."""
        return BLOCK + padded(length)

    def shard_bytes(self, manifest: Manifest) -> int:
        """The end mark."""
        return len(END_MARK)

    def key_bytes(self, row: int, key: str, label: int, seed: int) -> int:
        """The sample's first member."""
        return BLOCK + padded(len(facts_json(key, label, row, seed)))

    def places(self, content: ObjectContent) -> dict[str, Places]:
        """From the first header of each sample, and that of its JPEG."""
        layout, first = SampleLayout(content.manifest), content.rows.start
        ends = np.full(len(content.rows), -1, dtype=np.int64)
        jpegs = Places(ends.copy(), np.zeros(len(ends), dtype=np.int64))
        for sample in _samples(content, layout):
            ends[sample.row - first] = sample.rest
            jpegs.starts[sample.row - first], jpegs.lengths[sample.row - first] = sample.jpeg
        present = ends >= 0
        found = {JPEG: jpegs} if layout.jpeg else {}
        for member in layout.arrays:
            lengths = np.broadcast_to(np.int64(member.spec.sample_bytes), ends.shape)
            found[member.spec.name] = Places(np.where(present, ends + member.value, -1), lengths)
        return found

    def column(self, content: ObjectContent, spec: ArraySpec) -> NDArray[Any]:
        """From the JSON members; for holes, which have none, from the receipt."""
        column = np.zeros(
            (len(content.rows), *spec.sample_shape), object if spec.dtype == "string" else spec.numpy_dtype
        )
        first, manifest = content.rows.start, content.manifest
        for sample in _samples(content, SampleLayout(manifest)):
            found = _view(content, sample) if spec.name == "view" else _facts(content, sample)[spec.name]
            column[sample.row - first] = found
        if spec.name != "view":
            for hole in content.receipt.holes:
                column[hole.sample - first] = getattr(hole, spec.name)
        return column

    def check(self, content: ObjectContent) -> None:
        """Every header, and all of the JSON members."""
        layout, data = SampleLayout(content.manifest), content.data
        for sample in _samples(content, layout):
            _facts(content, sample)
            _view(content, sample)
            for member in layout.arrays:
                place = sample.rest + member.start
                expected = member_header(sample.row, member.suffix, member.size) + member.npy
                if data[place : place + len(expected)].tobytes() != expected:
                    _damaged(content, place, f"no header of {member_name(sample.row, member.suffix)}")


class _Sample(NamedTuple):
    """Places of a sample's members in the tar."""

    row: int
    start: int
    """Of the first member's header."""
    size: int
    """Of the first member's content."""
    rest: int
    """Start of the second member's header."""
    jpeg: tuple[int, int]
    """Start and length of the JPEG; -1 and 0 if there is none."""


def _samples(content: ObjectContent, layout: SampleLayout) -> Iterator[_Sample]:
    """Each sample of the receipt that is not a hole."""
    data, holes = content.data.data, {hole.sample for hole in content.receipt.holes}
    place = 0
    for row in content.rows:
        if row in holes:
            continue
        start, size = place, _size(content, data, row, FACTS, place)
        rest = start + BLOCK + padded(size)
        place, jpeg = rest + layout.rest, (-1, 0)
        if layout.jpeg:
            jpeg = place + BLOCK, _size(content, data, row, PICTURE, place)
            place += BLOCK + padded(jpeg[1])
        yield _Sample(row, start, size, rest, jpeg)
    if bytes(data[place:]) != END_MARK:
        _damaged(content, place, f"no end mark of {len(END_MARK)} zero bytes at the end")


def _size(content: ObjectContent, data: memoryview | FileBytes, row: int, suffix: str, place: int) -> int:
    """Size of the member whose header must be at a place."""
    header = bytes(data[place : place + BLOCK])
    size = member_size(header)
    if size < 0 or header != member_header(row, suffix, size):
        _damaged(content, place, f"no header of {member_name(row, suffix)}")
    return size


def _damaged(content: ObjectContent, place: int, found: str) -> NoReturn:
    raise IntegrityError(
        f"{content.where}: {found} at byte {place} of {len(content.data)}: the tar is truncated, damaged or "
        f"of another shard; {REPAIR}"
    )


def facts_json(key: str, label: int, row: int, seed: int) -> bytes:
    """The member ``.json``."""
    return canonical_json({"key": key, "label": label, "row": row, "seed": seed})


def view_json(values: NDArray[np.int32]) -> bytes:
    """The member ``.view.json``: at most 167 bytes."""
    return canonical_json(dict(zip(VIEW_FIELDS, values.tolist(), strict=True)))


def _facts(content: ObjectContent, sample: _Sample) -> dict[str, Any]:
    row, start = sample.row, sample.start
    stored = content.data[start + BLOCK : start + BLOCK + sample.size].tobytes()
    try:
        facts: dict[str, Any] = json.loads(stored)
        valid = stored == facts_json(str(facts["key"]), int(facts["label"]), row, content.receipt.seed)
        if valid and -(2**63) <= facts["label"] < 2**63:
            return facts
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    _damaged(content, start + BLOCK, f"no JSON of key and label of row {row}, seed {content.receipt.seed}")


def _view(content: ObjectContent, sample: _Sample) -> NDArray[np.int32]:
    row, start = sample.row, sample.rest
    header = content.data[start : start + BLOCK].tobytes()
    size = member_size(header)
    stored = content.data[start + BLOCK : start + BLOCK + max(size, 0)].tobytes()
    try:
        document = json.loads(stored)
        values = np.array([document[field] for field in VIEW_FIELDS], dtype=np.int32)
        if stored == view_json(values) and header == member_header(row, VIEW, size):
            return values
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError):
        pass
    _damaged(content, start, f"no {member_name(row, VIEW)}")
