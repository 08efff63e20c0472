"""PNG and JPEG without their metadata, for when Pillow refuses a file over what says nothing about its pixels."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"

_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_TRANSPARENCY_SIZES = {0: range(2, 3), 2: range(6, 7), 3: range(257)}
"""Bytes of a tRNS chunk by colour type."""
_JFIF_BYTES = 14
"""Least length of a JFIF segment; decoders take no notice of a shorter one."""
_KNOWN_CHUNK = re.compile(rb"IDAT|PLTE|tRNS|IEND")


def without_metadata(data: bytes) -> Iterator[bytes]:
    """The file with ever less metadata: first with its EXIF, which tells what is up, where that is whole, then without.

    What tells of colours and transparency is kept where it is sound: tRNS, and the segments of JFIF and Adobe. Yields
    nothing where the file is neither PNG nor JPEG, or a JPEG's segments do not follow one another.
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
    """Kind and bytes of each chunk that is sound, and of the critical ones in any case: those are Pillow's to judge.

    Where the length of a chunk is damaged, the next sound one of those that matter is looked for.
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
    """The JPEG without metadata, or None where its segments do not follow one another.

    Nothing is searched for then: the first picture to be found would be the preview within the metadata.
    """
    kept, position = [data[:2]], 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # filling
            position += 1
            continue
        if marker == 0xDA:  # the scan: all that follows
            return b"".join(kept) + data[position:]
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : end]
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        tells_colours = (marker == 0xE0 and len(segment) >= _JFIF_BYTES) or (marker == 0xEE and segment[:5] == b"Adobe")
        if not is_metadata or tells_colours or (marker == 0xE1 and exif is not None and segment.startswith(exif)):
            kept.append(data[position:end])
        position = end
    return None
