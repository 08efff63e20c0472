"""A TIFF writer of the tests' own, for every depth, sign, order and layout; compare the TIFF 6.0 specification."""

from __future__ import annotations

import struct
import zlib
from typing import Literal

import numpy as np

RATIONAL = (7).to_bytes(4, "little") * 2


def lzw(data: bytes) -> bytes:
    """TIFF's LZW without a dictionary: codes of 9 bits, cleared before they would need 10."""
    codes: list[int] = []
    for start in range(0, len(data), 200):
        codes += [256, *data[start : start + 200]]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    return int(bits.ljust(-len(bits) % 8 + len(bits), "0"), 2).to_bytes((len(bits) + 7) // 8, "big")


def packbits(data: bytes) -> bytes:
    """PackBits without a run."""
    parts = [data[start : start + 128] for start in range(0, len(data), 128)]
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


CODECS = {1: bytes, 5: lzw, 8: zlib.compress, 32773: packbits}


def write_tiff(
    values: np.ndarray,
    *,
    bits: int,
    kind: Literal["u", "i", "f"] = "u",
    photometric: int = 1,
    extra: tuple[int, ...] = (),
    planar: bool = False,
    compression: int = 1,
    predictor: int = 1,
    order: Literal["<", ">"] = "<",
    fill_order: int = 1,
    tile: tuple[int, int] | None = None,
    rows_per_strip: int | None = None,
    tags: dict[int, tuple[int, bytes]] | None = None,
) -> bytes:
    """A TIFF of samples (height, width, samples a pixel), of which the last ``len(extra)`` are extra samples.

    ``tags`` holds more tags: number to (type, bytes).
    """
    height, width, samples = values.shape
    across, down = tile or (width, rows_per_strip or height)
    chunks = []
    for planes in [[n] for n in range(samples)] if planar else [list(range(samples))]:
        for top in range(0, height, down):
            for left in range(0, width, across):
                part = values[top : top + down, left : left + across, planes]
                if tile:
                    part = np.pad(part, ((0, down - part.shape[0]), (0, across - part.shape[1]), (0, 0)))
                packed = CODECS[compression](pack(part, bits, kind, order, predictor))
                chunks.append(reverse(packed) if fill_order == 2 else packed)
    entries = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * samples),
        259: (3, [compression]),
        262: (3, [photometric]),
        266: (3, [fill_order]),
        277: (3, [samples]),
        284: (3, [2 if planar else 1]),
        317: (3, [predictor]),
        339: (3, [{"u": 1, "i": 2, "f": 3}[kind]] * samples),
    }
    if extra:
        entries[338] = (3, list(extra))
    if tile:
        entries |= {322: (4, [across]), 323: (4, [down])}
    else:
        entries[278] = (4, [down])
    starts = np.cumsum([8, *map(len, chunks)]).tolist()
    entries |= {324 if tile else 273: (4, starts[:-1]), 325 if tile else 279: (4, list(map(len, chunks)))}
    packed_entries = {
        tag: (type_, b"".join(struct.pack(order + {3: "H", 4: "I"}[type_], v) for v in found))
        for tag, (type_, found) in entries.items()
    }
    packed_entries |= tags or {}
    body = b"".join(chunks)
    where = 8 + len(body) + len(body) % 2
    heap_start = where + 2 + 12 * len(packed_entries) + 4
    directory, heap = struct.pack(order + "H", len(packed_entries)), b""
    for tag, (type_, content) in sorted(packed_entries.items()):
        count = len(content) // {2: 1, 3: 2, 4: 4, 5: 8, 7: 1}[type_]
        directory += struct.pack(order + "HHI", tag, type_, count)
        if len(content) <= 4:
            directory += content.ljust(4, b"\0")
        else:
            directory += struct.pack(order + "I", heap_start + len(heap))
            heap += content + b"\0" * (len(content) % 2)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", where) + body + b"\0" * (len(body) % 2) + directory + bytes(4) + heap


def pack(values: np.ndarray, bits: int, kind: str, order: str, predictor: int) -> bytes:
    """Rows of samples as bytes, each row filled up to a whole byte."""
    if predictor == 3:
        rows = np.ascontiguousarray(values, dtype=f">f{bits // 8}").view(np.uint8).reshape(len(values), -1, bits // 8)
        planes = rows.transpose(0, 2, 1).reshape(len(values), -1, values.shape[2])
        return np.diff(planes, axis=1, prepend=planes[:, :1] * 0).astype(np.uint8).tobytes()
    if predictor == 2:
        values = np.diff(values, axis=1, prepend=values[:, :1] * 0)
    if bits in (8, 16, 32, 64):
        return values.astype(f"{order}{kind}{bits // 8}").tobytes()
    rows = values.reshape(len(values), -1).astype(np.int64) & ((1 << bits) - 1)
    if bits == 24 and order == "<":  # the one odd depth that has a byte order
        return rows.astype("<u4").view(np.uint8).reshape(len(rows), -1, 4)[..., :3].tobytes()
    digits = rows[..., None] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(digits.astype(np.uint8).reshape(len(rows), -1), axis=1).tobytes()


def reverse(data: bytes) -> bytes:
    return bytes(int(f"{byte:08b}"[::-1], 2) for byte in data)
