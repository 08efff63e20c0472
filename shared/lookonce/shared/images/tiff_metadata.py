"""Removes metadata tags from TIFF files, because Pillow ignores all tags after a damaged one."""

from __future__ import annotations

import struct
from collections.abc import Iterator

PIXEL_TAGS = frozenset({
    256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 338, 339, 347,
    512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 50674,
})  # fmt: skip
"""Tags that describe the storage of pixels, and the orientation."""

_ORIENTATION = 274

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes per value, by type."""


def metadata_is_sound(data: bytes) -> bool:
    """Whether every tag of the first page has a known type and lies inside the file.

    Raises:
        ValueError: a tag of the pixels or the whole directory is damaged.
        struct.error: the file is truncated.
    """
    return all(sound for _, _, sound in _entries(data))


def tiff_without_metadata(data: bytes, kept: frozenset[int] = PIXEL_TAGS) -> bytes:
    """The file with only ``kept`` tags in its first directory, which stays in place, and without other pages.

    Raises:
        ValueError: a tag of the pixels or the whole directory is damaged.
        struct.error: the file is truncated.
    """
    order, big = _order(data)
    entries = [entry for tag, entry, sound in _entries(data) if tag in kept and (sound or tag != _ORIENTATION)]
    offset = _directory(data, order, big)
    directory = struct.pack(order + ("Q" if big else "H"), len(entries)) + b"".join(entries) + bytes(8 if big else 4)
    return data[:offset] + directory + data[offset + len(directory) :]


def _directory(data: bytes, order: str, big: bool) -> int:
    return int(struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0])


def _order(data: bytes) -> tuple[str, bool]:
    """The byte order as a sign of ``struct``, and whether the file is a BigTIFF."""
    order = "<" if data[:2] == b"II" else ">"
    return order, struct.unpack_from(order + "H", data, 2)[0] == 43


def _entries(data: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """Tag, bytes and validity of each entry of the first directory."""
    order, big = _order(data)
    offset = _directory(data, order, big)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, offset)
    first, size, inline = offset + (8 if big else 2), 20 if big else 12, 8 if big else 4
    if first + count * size > len(data):
        raise ValueError("the TIFF's directory is cut off")
    for position in range(first, first + count * size, size):
        tag, kind, values = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, position)
        (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, position + size - inline)
        length = _SIZES.get(kind, 0) * values
        sound = kind in _SIZES and (length <= inline or place + length <= len(data))
        if tag in PIXEL_TAGS - {_ORIENTATION} and not sound:
            raise ValueError(f"the TIFF's tag {tag}, which describes how its pixels are stored, is damaged")
        yield tag, data[position : position + size], sound
