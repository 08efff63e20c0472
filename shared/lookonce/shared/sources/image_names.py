"""Recognises image files by their extensions, as Pillow registers them, or without extension by their first bytes.

The table makes listings the same on every machine, whichever formats its Pillow supports. A test compares it with
Pillow's own table.
"""

from __future__ import annotations

import re

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
"""Common extensions of images; of several images of a tar sample, the first in this order is used."""

RARER_IMAGES = (
    "jpe",
    "jfif",
    "mpo",
    "apng",
    "avif",
    "avifs",
    "dib",
    "pgm",
    "pbm",
    "pnm",
    "pfm",
    "jp2",
    "j2k",
    "j2c",
    "jpc",
    "jpf",
    "jpx",
    "qoi",
    "sgi",
    "rgb",
    "rgba",
    "bw",
    "pcx",
)
"""Rare extensions of images; used for a tar sample without any of ``IMAGES``."""

EXTENSIONS = frozenset(f".{name}" for name in IMAGES + RARER_IMAGES)
"""All extensions of images; letter case does not matter."""

HEAD_BYTES = 32
"""Bytes that ``begins_like_image`` needs."""

_BEGINNING = re.compile(
    rb"""\xff\xd8\xff | \x89PNG\r\n\x1a\n | GIF8[79]a | RIFF....WEBP | (II[*+]\0|MM\0[*+])
    | BM.{8}....(\x0c|[\x28\x34\x38\x40\x6c\x7c])\0\0\0 | P[1-6Ff]\s+[#0-9] | ....ftyp(avif|avis)
    | \0\0\0\x0cjP\ \ \r\n\x87\n | \xff\x4f\xff\x51 | qoif""",
    re.VERBOSE | re.DOTALL,
)


def begins_like_image(head: bytes) -> bool:
    """Whether the first ``HEAD_BYTES`` of a file are those of a supported format; for BMP the header is checked.

    >>> begins_like_image(b"P5 64 48 255 ..."), begins_like_image(b"PRINCE, n."), begins_like_image(b"")
    (True, False, False)
    """
    return _BEGINNING.match(head) is not None
