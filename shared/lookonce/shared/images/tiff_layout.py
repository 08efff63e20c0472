"""The layout of a TIFF's samples, from its tags: depth, sign, order, alpha, strips or tiles."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL.TiffImagePlugin import OPEN_INFO, ImageFileDirectory_v2

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF in both byte orders; the last two are BigTIFF."""

BYTE_CODECS = {1: "none", 5: "LZW", 8: "deflate", 32773: "PackBits", 32946: "deflate", 34925: "LZMA", 50000: "zstd"}
"""Compressions (tag 259) of bytes, independent of the type of samples."""

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE = 0, 1, 2, 3
"""Values of PhotometricInterpretation."""

PHOTOMETRIC, SAMPLES_PER_PIXEL, PLANAR, COLOUR_MAP = 262, 277, 284, 320
"""Numbers of tags."""

_KINDS: dict[int, Literal["unsigned", "signed", "float"]] = {1: "unsigned", 2: "signed", 3: "float", 4: "unsigned"}
"""SampleFormat to the kind of a sample; 4 means undefined."""


@dataclass(frozen=True, kw_only=True)
class TiffLayout:
    """Layout of the first page of a grey or RGB TIFF."""

    big_endian: bool
    width: int
    height: int
    bits: int
    """Bits per sample."""
    kind: Literal["unsigned", "signed", "float"]
    samples: int
    """Samples per pixel, colours first."""
    photometric: int
    alpha: Literal["associated", "unassociated"] | None
    """Kind of the first sample after the colours; other samples are ignored."""
    planar: bool
    """Whether each sample has its own strips or tiles."""
    compression: int
    predictor: int
    """1: none; 2: differences along a row; 3: differences of the bytes of floats."""
    fill_order: int
    orientation: int
    chunk_width: int
    """Width of a tile; for strips the width of the image."""
    chunk_height: int
    offsets: tuple[int, ...]
    """First byte of each strip or tile."""
    byte_counts: tuple[int, ...]
    tiled: bool

    @property
    def colours(self) -> int:
        """1 for grey, 3 for RGB."""
        return 3 if self.photometric == RGB else 1

    @property
    def wanted(self) -> int:
        """Samples per pixel that are read: the colours, and alpha if there is one."""
        return self.colours + (self.alpha is not None)

    @property
    def bytes_per_pixel(self) -> int:
        """Most memory for decoding and for a view as large as the image, in bytes per pixel."""
        sample = next(size for size in (1, 2, 4, 8) if self.bits <= 8 * size)
        one_chunk = self.samples * (sample + (self.bits + 7) // 8)
        return self.wanted * (sample + 1 + 4 * (self.alpha is not None)) + one_chunk + 8


def tiff_tags(data: bytes) -> ImageFileDirectory_v2:
    """The tags of the first page of a TIFF.

    Raises:
        Exception: of many types; the header or the tags are damaged.
    """
    file = io.BytesIO(data)
    tags = ImageFileDirectory_v2(file.read(16 if data[2:4] in (b"+\0", b"\0+") else 8))
    file.seek(tags.next)
    tags.load(file)
    return tags


def numbers(tags: ImageFileDirectory_v2, tag: int, default: Sequence[int] = ()) -> tuple[int, ...]:
    """The integers of a tag, or ``default`` if it is missing."""
    found = tags.get(tag)
    if found is None:
        return tuple(default)
    return tuple(int(value) for value in (found if isinstance(found, tuple) else (found,)))


def pillow_is_right(tags: ImageFileDirectory_v2) -> bool:
    """Whether Pillow reads a TIFF correctly, or ``tiff_layout`` does not support it.

    Pillow reads unsigned samples of up to 8 bits correctly, and 16-bit RGB. It misreads signed grey of 8 bits, unsigned
    grey of 12 and 32 bits, grey of 16 bits if white is 0, and uncompressed planes of 16 bits; it refuses the rest.
    """
    if not can_be_laid_out(tags):
        return True
    photometric, per_pixel = _photometric(tags)
    extra, (bits, formats) = numbers(tags, 338), (_of_each(tags, tag, per_pixel) for tag in (258, 339))
    known = (b"II", photometric, formats[:1], numbers(tags, 266, (1,))[0], bits, extra) in OPEN_INFO
    planar, compressed = numbers(tags, PLANAR, (1,))[0] == 2 and per_pixel > 1, numbers(tags, 259, (1,))[0] != 1
    if not known or set(formats) != {1}:
        return False
    if photometric != RGB:
        return max(bits) <= 8 and not planar
    return set(bits) == {8} or (set(bits) == {16} and (compressed or not planar))


def _of_each(tags: ImageFileDirectory_v2, tag: int, samples: int) -> tuple[int, ...]:
    """Values of a tag for each sample of a pixel; some writers store one value for all samples."""
    found = numbers(tags, tag, (1,))
    return found * samples if len(found) == 1 else found


def can_be_laid_out(tags: ImageFileDirectory_v2) -> bool:
    """Whether a TIFF is grey or RGB in a compression that ``tiff_samples`` supports."""
    photometric, _ = _photometric(tags)
    return photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB) and numbers(tags, 259, (1,))[0] in BYTE_CODECS


def _photometric(tags: ImageFileDirectory_v2) -> tuple[int, int]:
    """PhotometricInterpretation, and samples per pixel."""
    per_pixel = numbers(tags, 277, (1,))[0]
    return numbers(tags, 262, (BLACK_IS_ZERO if per_pixel < 3 else RGB,))[0], per_pixel


def tiff_layout(tags: ImageFileDirectory_v2, data: bytes) -> TiffLayout:
    """The layout of a TIFF for which ``can_be_laid_out`` is true.

    Raises:
        ValueError: the samples are not supported, or tags are damaged.
    """
    photometric, per_pixel = _photometric(tags)
    compression, depths, formats = (
        numbers(tags, 259, (1,))[0],
        set(numbers(tags, 258, (1,))),
        set(numbers(tags, 339, (1,))),
    )
    planar = numbers(tags, PLANAR, (1,))[0] == 2 and per_pixel > 1
    if len(depths) != 1 or len(formats) != 1 or next(iter(formats)) not in _KINDS:
        raise ValueError(f"TIFF samples of {sorted(depths)} bits and SampleFormat {sorted(formats)} are not supported")
    bits, kind = depths.pop(), _KINDS[formats.pop()]
    if not (bits in (16, 32, 64) if kind == "float" else 1 <= bits <= 32 or bits == 64):
        raise ValueError(f"TIFF samples of {bits} bits ({kind}) are not supported")
    width, height = numbers(tags, 256)[0], numbers(tags, 257)[0]
    tiled = 322 in tags
    chunk_width = numbers(tags, 322)[0] if tiled else width
    chunk_height = numbers(tags, 323)[0] if tiled else min(height, numbers(tags, 278, (height,))[0] or height)
    if min(width, height, chunk_width, chunk_height, per_pixel) < 1:
        raise ValueError("the TIFF's size is damaged")
    colours = 3 if photometric == RGB else 1
    if per_pixel < colours:
        raise ValueError(f"an RGB TIFF of {per_pixel} samples per pixel")
    extra = numbers(tags, 338)[:1]
    offsets = numbers(tags, 324 if tiled else 273)
    counts = numbers(tags, 325 if tiled else 279)
    if len(counts) != len(offsets) and len(offsets) == 1:  # old writers omit the byte counts
        counts = (len(data) - offsets[0],)
    chunks = -(-width // chunk_width) * -(-height // chunk_height) * (per_pixel if planar else 1)
    if not chunks <= len(offsets) == len(counts):
        raise ValueError(f"the TIFF lists {len(offsets)} strips or tiles and {len(counts)} sizes, expected {chunks}")
    return TiffLayout(
        big_endian=data[:2] == b"MM",
        width=width,
        height=height,
        bits=bits,
        kind=kind,
        samples=per_pixel,
        photometric=photometric,
        alpha={(1,): "associated", (2,): "unassociated"}.get(extra),  # type: ignore[arg-type]
        planar=planar,
        compression=compression,
        predictor=1 if compression in (1, 32773) else numbers(tags, 317, (1,))[0],  # as in libtiff
        fill_order=numbers(tags, 266, (1,))[0],
        orientation=numbers(tags, 274, (1,))[0],
        chunk_width=chunk_width,
        chunk_height=chunk_height,
        offsets=offsets,
        byte_counts=counts,
        tiled=tiled,
    )
