"""Removes metadata from PNG and JPEG files, for files that Pillow refuses because of damaged metadata."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"

_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_TRANSPARENCY_SIZES = {0: range(2, 3), 2: range(6, 7), 3: range(257)}
"""Valid lengths of a tRNS chunk in bytes, by colour type."""
_JFIF_BYTES = 14
"""Least length of a JFIF segment in bytes; decoders ignore shorter ones."""
_KNOWN_CHUNK = re.compile(rb"IDAT|PLTE|tRNS|IEND")


def without_metadata(data: bytes) -> Iterator[bytes]:
    """Yield the file with less and less metadata: first with valid EXIF, which contains the orientation, then without.

    Valid data about colours and transparency are kept: tRNS, and the segments of JFIF and Adobe. Nothing is yielded if
    the file is neither PNG nor JPEG, or if a JPEG's segments are not consecutive.
    """
    if data.startswith(PNG_MAGIC):
        for kept in ({b"tRNS", b"eXIf"}, {b"tRNS"}):
            yield PNG_MAGIC + b"".join(chunk for kind, chunk in _png_chunks(data) if kind in _PIXEL_CHUNKS | kept)
    elif data.startswith(JPEG_MAGIC):
        for exif in (b"Exif\0", None):
            content = _jpeg_without_metadata(data, exif)
            if content is not None:
                yield content


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and bytes of each valid chunk, and of all critical chunks, which Pillow checks itself.

    If the length of a chunk is damaged, the next valid critical or tRNS chunk is searched.
    """
    position, colour_type = len(PNG_MAGIC), data[25] if len(data) > 25 else -1
    while position + 12 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        end = position + 12 + length
        if kind in _PIXEL_CHUNKS:
            yield kind, data[position:end]
        elif _is_sound(data, position):
            if kind != b"tRNS" or length in _TRANSPARENCY_SIZES.get(colour_type, ()):
                yield kind, data[position:end]
        elif not _is_sound(data, end):
            end = next(
                (
                    found.start() - 4
                    for found in _KNOWN_CHUNK.finditer(data, position + 8)
                    if _is_sound(data, found.start() - 4)
                ),
                len(data),
            )
        position = end


def _is_sound(data: bytes, position: int) -> bool:
    end = position + 8 + int.from_bytes(data[position : position + 4], "big")
    return end + 4 <= len(data) and zlib.crc32(data[position + 4 : end]) == int.from_bytes(data[end : end + 4], "big")


def _jpeg_without_metadata(data: bytes, exif: bytes | None) -> bytes | None:
    """The JPEG without metadata, or None if its segments are not consecutive.

    Then nothing is searched: the first image found could be the preview inside the metadata.
    """
    kept, position = [data[:2]], 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == 0xDA:  # start of scan: image data follow
            return b"".join(kept) + data[position:]
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : end]
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        tells_colours = (marker == 0xE0 and len(segment) >= _JFIF_BYTES) or (marker == 0xEE and segment[:5] == b"Adobe")
        if not is_metadata or tells_colours or (marker == 0xE1 and exif is not None and segment.startswith(exif)):
            kept.append(data[position:end])
        position = end
    return None
