"""Objects of a zarr v3 array as bytes: the sharding index at a shard's end, and string chunks.

zarr-python writes the same bytes for the same array (``tests/integration/test_zarr_parity.py`` compares both ways).
Writing them directly is several times faster than assigning through zarr-python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.vlen import VLenUTF8
from numpy.typing import NDArray

from lookonce.cache.advice import REPAIR
from lookonce.cache.containers.container import Places
from lookonce.cache.containers.unmapped import FileBytes
from lookonce.shared.errors import IntegrityError
from lookonce.storage_schemas.arrays import EMPTY_CHUNK, ArraySpec

VARIABLE_HEADER = 8
"""Bytes before a value in a chunk of zarr's ``vlen-bytes``: the number of values, 1, and the value's length."""

_ENTRY_BYTES = 16
_CRC_BYTES = 4


def shard_index_bytes(shard_size: int) -> int:
    """Length of a shard's index, which has an entry for every inner chunk, present or missing."""
    return shard_size * _ENTRY_BYTES + _CRC_BYTES


def empty_chunk_bytes(spec: ArraySpec, shard_size: int) -> int:
    """Length of a ``chunking="shard"`` chunk whose strings are all empty."""
    return 4 * (1 + shard_size) if spec.dtype == "string" else shard_size * spec.sample_bytes


def encode_shard_index(offsets: NDArray[np.uint64], lengths: NDArray[np.uint64]) -> bytes:
    """Index of a shard: little-endian (offset, length) pairs and their CRC-32C (zarr sharding codec 1.0).

    Args:
        offsets: uint64 (inner chunks,), bytes from the start of the file; EMPTY_CHUNK for a missing chunk.
        lengths: uint64 (inner chunks,).
    """
    entries = np.stack([offsets, lengths], axis=1).astype("<u8").tobytes()
    return entries + int(google_crc32c.value(entries)).to_bytes(_CRC_BYTES, "little")


def decode_shard_index(data: memoryview | bytes | FileBytes, inner_chunks: int, where: str) -> NDArray[np.uint64]:
    """Read the index at the end of a shard.

    Returns:
        uint64 (inner chunks, 2): offset and length; EMPTY_CHUNK twice for a missing chunk.

    Raises:
        IntegrityError: the shard is too short or the index's CRC-32C does not match.
    """
    index_bytes = inner_chunks * _ENTRY_BYTES
    if len(data) < index_bytes + _CRC_BYTES:
        raise IntegrityError(
            f"{where}: {len(data)} bytes are too few for the index of {inner_chunks} samples "
            f"({index_bytes + _CRC_BYTES} bytes): the object is truncated; {REPAIR}"
        )
    tail = bytes(data[len(data) - index_bytes - _CRC_BYTES :])
    entries, checksum = tail[:index_bytes], int.from_bytes(tail[index_bytes:], "little")
    if int(google_crc32c.value(entries)) != checksum:
        raise IntegrityError(f"{where}: the shard index is damaged (CRC-32C); {REPAIR}")
    table: NDArray[np.uint64] = np.frombuffer(entries, dtype="<u8").reshape(inner_chunks, 2)
    return table


def variable_header(length: int) -> bytes:
    """What stands before a value of ``length`` bytes in its chunk."""
    return (1).to_bytes(4, "little") + length.to_bytes(4, "little")


def sample_chunks(data: memoryview | FileBytes, spec: ArraySpec, shard_size: int, where: str) -> Places:
    """Chunk of every sample in a shard of a ``chunking="sample"`` array, with the header if its length varies.

    Raises:
        IntegrityError: the index is damaged or points outside the object.
    """
    table = decode_shard_index(data, shard_size, where)
    present = (table != np.uint64(EMPTY_CHUNK)).any(axis=1)
    limit = len(data) - shard_size * _ENTRY_BYTES - _CRC_BYTES
    beyond = (table > np.uint64(limit)).any(axis=1) | (table[:, 0] + table[:, 1] > np.uint64(limit))
    unfit = table[:, 1] <= VARIABLE_HEADER if spec.variable else table[:, 1] != spec.sample_bytes
    wrong = present & (beyond | unfit)
    if wrong.any():
        sample = int(np.flatnonzero(wrong)[0])
        expected = f"more than {VARIABLE_HEADER}" if spec.variable else spec.sample_bytes
        raise IntegrityError(
            f"{where}: sample {sample} of the shard lies at byte {int(table[sample, 0])} with {int(table[sample, 1])} "
            f"bytes; expected {expected} bytes within the first {limit}; {REPAIR}"
        )
    chunks = np.where(present[:, None], table, np.uint64(0)).astype(np.int64)
    return Places(np.where(present, chunks[:, 0], -1), chunks[:, 1])


def encode_whole_chunk(values: NDArray[Any] | Sequence[str], spec: ArraySpec, shard_size: int) -> bytes:
    """The chunk of a ``chunking="shard"`` array: values, padded to ``shard_size`` rows with the fill value."""
    if spec.dtype == "string":
        strings = np.array([*values, *[""] * (shard_size - len(values))], dtype=object)
        return bytes(VLenUTF8().encode(strings))
    padded = np.zeros((shard_size, *spec.sample_shape), dtype=spec.numpy_dtype)
    padded[: len(values)] = values
    return padded.tobytes()


def decode_whole_chunk(data: bytes, spec: ArraySpec, shard_size: int, where: str) -> NDArray[Any]:
    """Read a ``chunking="shard"`` chunk.

    Returns:
        Shape (shard_size, ...) in the array's dtype; for strings dtype object with str.

    Raises:
        IntegrityError: the chunk has the wrong length, or broken strings.
    """
    if spec.dtype == "string":
        return _decode_strings(data, shard_size, where)
    expected = shard_size * spec.sample_bytes
    if len(data) != expected:
        raise IntegrityError(
            f"{where}: {len(data)} bytes, expected {expected}: the object is truncated or was swapped; {REPAIR}"
        )
    return np.frombuffer(data, dtype=spec.numpy_dtype).reshape(shard_size, *spec.sample_shape)


def _decode_strings(data: bytes, count: int, where: str) -> NDArray[Any]:
    """Decode zarr's ``vlen-utf8``: a count, then length and bytes of each. numcodecs trusts damaged lengths."""
    strings = np.empty(count, dtype=object)
    found = int.from_bytes(data[:4], "little")
    if found != count:
        raise IntegrityError(f"{where}: {found} strings, expected {count}; {REPAIR}")
    start = 4
    for position in range(count):
        end = start + 4 + int.from_bytes(data[start : start + 4], "little")
        if end > len(data) or start + 4 > len(data):
            raise IntegrityError(f"{where}: string {position} ends after the object's {len(data)} bytes; {REPAIR}")
        try:
            strings[position] = data[start + 4 : end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise IntegrityError(f"{where}: string {position} is not UTF-8 ({error.reason}); {REPAIR}") from error
        start = end
    if start != len(data):
        raise IntegrityError(f"{where}: {len(data) - start} bytes follow the last string; {REPAIR}")
    return strings
