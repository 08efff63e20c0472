"""Reads the samples of a TIFF of any depth: decompresses strips and tiles, unpacks bits, sums differences."""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookonce.shared.images.tiff_layout import TiffLayout

_ROWS_BITS = 1 << 27
"""Number of bits that are unpacked at a time."""

_REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), axis=1)[:, 0]
"""Every byte with its bits reversed."""


def tiff_samples(data: bytes, layout: TiffLayout) -> NDArray[np.generic]:
    """Read the wanted samples.

    Returns:
        (height, width, ``layout.wanted``); unsigned, signed or float of at least ``layout.bits`` bits.

    Raises:
        ValueError: a strip or tile is truncated, or a compression or predictor is not supported.
        OSError: compressed bytes are damaged.
    """
    samples = np.empty((layout.height, layout.width, layout.wanted), _dtype(layout))
    across, down = -(-layout.width // layout.chunk_width), -(-layout.height // layout.chunk_height)
    in_chunk = 1 if layout.planar else layout.samples
    for plane in range(layout.wanted if layout.planar else 1):
        for chunk in range(across * down):
            top, left = chunk // across * layout.chunk_height, chunk % across * layout.chunk_width
            rows = layout.chunk_height if layout.tiled else min(layout.chunk_height, layout.height - top)
            content = _chunk(data, layout, plane * across * down + chunk, rows, in_chunk)
            content = content[: layout.height - top, : layout.width - left]
            place = samples[top : top + len(content), left : left + content.shape[1]]
            if layout.planar:
                place[..., plane] = content[..., 0]
            else:
                place[:] = content[..., : layout.wanted]
    return samples


def _dtype(layout: TiffLayout) -> np.dtype[np.generic]:
    size = next(size for size in (1, 2, 4, 8) if layout.bits <= 8 * size)
    return np.dtype(f"{ {'unsigned': 'u', 'signed': 'i', 'float': 'f'}[layout.kind] }{size}")


def _chunk(data: bytes, layout: TiffLayout, number: int, rows: int, in_chunk: int) -> NDArray[np.generic]:
    """One strip or tile: (rows, chunk width, samples per pixel in it)."""
    row_bytes = (layout.chunk_width * in_chunk * layout.bits + 7) // 8
    offset, count = layout.offsets[number], layout.byte_counts[number]
    packed = data[offset : offset + count]
    if layout.compression == 1:
        if len(packed) < rows * row_bytes:
            raise ValueError(f"strip or tile {number} is cut off: {len(packed)} of {rows * row_bytes} bytes")
        content = np.frombuffer(packed, np.uint8, rows * row_bytes).reshape(rows, row_bytes)
        content = _REVERSED[content] if layout.fill_order == 2 else content
    else:
        content = _decompressed(packed, layout, rows, row_bytes)
    if layout.predictor == 3:
        return _float_sums(content, layout, in_chunk)
    values = _values(content, layout, layout.chunk_width * in_chunk).reshape(rows, layout.chunk_width, in_chunk)
    if layout.predictor == 2:
        with np.errstate(over="ignore"):
            values = np.cumsum(values, axis=1, dtype=values.dtype)
    elif layout.predictor != 1:
        raise ValueError(f"TIFF predictor {layout.predictor} is not supported")
    return values


def _decompressed(packed: bytes, layout: TiffLayout, rows: int, row_bytes: int) -> NDArray[np.uint8]:
    """Decompress a chunk by Pillow's libtiff, which receives it as a TIFF of 8-bit grey."""
    tags = [
        (256, row_bytes),
        (257, rows),
        (258, 8),
        (259, layout.compression),
        (262, 1),
        (266, layout.fill_order),
        (273, 8),
        (277, 1),
        (278, rows),
        (279, len(packed)),
    ]
    where = 8 + len(packed) + len(packed) % 2
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    file = struct.pack("<2sHI", b"II", 42, where) + packed + b"\0" * (len(packed) % 2) + directory + bytes(4)
    with Image.open(io.BytesIO(file), formats=("TIFF",)) as image:
        return np.asarray(image)


def _values(content: NDArray[np.uint8], layout: TiffLayout, count: int) -> NDArray[np.generic]:
    """Values of packed rows: (rows, bytes) to (rows, count)."""
    dtype = _dtype(layout)
    if layout.bits == 8 * dtype.itemsize:
        order = dtype.newbyteorder(">" if layout.big_endian else "<")
        return np.ascontiguousarray(content).view(order)[:, :count].astype(dtype, copy=False)
    if layout.bits == 24 and not layout.big_endian:
        content = content.reshape(len(content), -1, 3)[..., ::-1].reshape(len(content), -1)
    values = np.empty((len(content), count), dtype)
    step = max(1, _ROWS_BITS // max(1, count * 64))
    for start in range(0, len(content), step):
        values[start : start + step] = _unpacked(content[start : start + step], layout, count)
    return values


def _unpacked(content: NDArray[np.uint8], layout: TiffLayout, count: int) -> NDArray[np.generic]:
    """Unpack samples of other sizes than whole numpy types: highest bits first in any byte order."""
    bits, span = layout.bits, (layout.bits + 14) // 8
    begin = np.arange(count) * bits
    padded = np.pad(content, ((0, 0), (0, span)))
    gathered = np.zeros((len(content), count), np.uint64)
    for position in range(span):
        gathered = gathered << np.uint64(8) | padded[:, begin // 8 + position]
    values = gathered >> (8 * span - bits - begin % 8).astype(np.uint64) & np.uint64((1 << bits) - 1)
    if layout.kind != "signed":
        return values
    sign = np.int64(1 << (bits - 1))
    signed: NDArray[np.generic] = (values.astype(np.int64) ^ sign) - sign
    return signed


def _float_sums(content: NDArray[np.uint8], layout: TiffLayout, in_chunk: int) -> NDArray[np.generic]:
    """Undo predictor 3: differences of bytes, with all highest bytes of a row first."""
    rows, size = len(content), layout.bits // 8
    if layout.kind != "float":
        raise ValueError("the TIFF's predictor of floats is not supported for integer samples")
    summed = np.cumsum(content.reshape(rows, -1, in_chunk), axis=1, dtype=np.uint8).reshape(rows, size, -1)
    ordered = np.ascontiguousarray(summed.transpose(0, 2, 1)).view(f">f{size}")
    return ordered.reshape(rows, layout.chunk_width, in_chunk).astype(_dtype(layout))
