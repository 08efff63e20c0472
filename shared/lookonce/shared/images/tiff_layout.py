"""How a TIFF keeps its samples: depth, sign, order, alpha, strips or tiles; from its tags, never from its values."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL.TiffImagePlugin import OPEN_INFO, ImageFileDirectory_v2

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How a TIFF begins: either byte order, the last two for BigTIFF."""

BYTE_CODECS = {1: "none", 5: "LZW", 8: "deflate", 32773: "PackBits", 32946: "deflate", 34925: "LZMA", 50000: "zstd"}
"""Compressions (tag 259) that give back bytes, whatever the samples are."""

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE = 0, 1, 2, 3
"""Values of PhotometricInterpretation."""

PHOTOMETRIC, SAMPLES_PER_PIXEL, PLANAR, COLOUR_MAP = 262, 277, 284, 320
"""Tags."""

_KINDS: dict[int, Literal["unsigned", "signed", "float"]] = {1: "unsigned", 2: "signed", 3: "float", 4: "unsigned"}
"""SampleFormat to what a sample is; 4 says that it is not known."""


@dataclass(frozen=True, kw_only=True)
class TiffLayout:
    """The first page of a TIFF of grey or RGB."""

    big_endian: bool
    width: int
    height: int
    bits: int
    """Of every sample."""
    kind: Literal["unsigned", "signed", "float"]
    samples: int
    """Of every pixel, colours first."""
    photometric: int
    alpha: Literal["associated", "unassociated"] | None
    """What the first sample behind the colours is; other samples are left out."""
    planar: bool
    """Whether each sample has strips or tiles of its own."""
    compression: int
    predictor: int
    """1: none; 2: differences along a row; 3: of the bytes of floats."""
    fill_order: int
    orientation: int
    chunk_width: int
    """Of a tile; the image's width where there are strips."""
    chunk_height: int
    offsets: tuple[int, ...]
    """Where each strip or tile begins, bytes."""
    byte_counts: tuple[int, ...]
    tiled: bool

    @property
    def colours(self) -> int:
        """1 for grey, 3 for RGB."""
        return 3 if self.photometric == RGB else 1

    @property
    def wanted(self) -> int:
        """Samples of a pixel that are looked at: the colours, and alpha where there is one."""
        return self.colours + (self.alpha is not None)

    @property
    def bytes_a_pixel(self) -> int:
        """What decoding, and cutting a view as large as the image, hold at most."""
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
    """The integers of a tag, or ``default`` where there is none."""
    found = tags.get(tag)
    if found is None:
        return tuple(default)
    return tuple(int(value) for value in (found if isinstance(found, tuple) else (found,)))


def pillow_is_right(tags: ImageFileDirectory_v2) -> bool:
    """Whether Pillow reads a TIFF rightly, or ``tiff_layout`` knows no better.

    Pillow is right about unsigned samples of up to 8 bits, and of 16 in RGB. It takes signed grey of 8 bits and
    unsigned grey of 12 and 32 for something else, grey of 16 bits for its negative where white is 0, and uncompressed
    planes of 16 bits for such of 8; the rest it refuses.
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
    """What a tag says of every sample of a pixel; some writers say it once for all."""
    found = numbers(tags, tag, (1,))
    return found * samples if len(found) == 1 else found


def can_be_laid_out(tags: ImageFileDirectory_v2) -> bool:
    """Whether a TIFF is grey or RGB, in a compression that ``tiff_samples`` can undo."""
    photometric, _ = _photometric(tags)
    return photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB) and numbers(tags, 259, (1,))[0] in BYTE_CODECS


def _photometric(tags: ImageFileDirectory_v2) -> tuple[int, int]:
    """PhotometricInterpretation and samples a pixel."""
    per_pixel = numbers(tags, 277, (1,))[0]
    return numbers(tags, 262, (BLACK_IS_ZERO if per_pixel < 3 else RGB,))[0], per_pixel


def tiff_layout(tags: ImageFileDirectory_v2, data: bytes) -> TiffLayout:
    """The layout of a TIFF that can be laid out.

    Raises:
        ValueError: samples that are not supported, or damaged tags.
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
        raise ValueError(f"an RGB TIFF of {per_pixel} samples a pixel")
    extra = numbers(tags, 338)[:1]
    offsets = numbers(tags, 324 if tiled else 273)
    counts = numbers(tags, 325 if tiled else 279)
    if len(counts) != len(offsets) and len(offsets) == 1:  # old writers leave the byte counts out
        counts = (len(data) - offsets[0],)
    chunks = -(-width // chunk_width) * -(-height // chunk_height) * (per_pixel if planar else 1)
    if not chunks <= len(offsets) == len(counts):
        raise ValueError(f"the TIFF names {len(offsets)} strips or tiles, with {len(counts)} sizes, of {chunks}")
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
        predictor=1 if compression in (1, 32773) else numbers(tags, 317, (1,))[0],  # as libtiff has it
        fill_order=numbers(tags, 266, (1,))[0],
        orientation=numbers(tags, 274, (1,))[0],
        chunk_width=chunk_width,
        chunk_height=chunk_height,
        offsets=offsets,
        byte_counts=counts,
        tiled=tiled,
    )
