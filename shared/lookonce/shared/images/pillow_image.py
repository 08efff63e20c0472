"""Decodes images by Pillow to upright 8-bit RGB; ``tiff_image`` handles TIFFs that Pillow reads wrongly."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImagePalette
from PIL.PngImagePlugin import PngImageFile

from lookonce.shared.images.decoding_room import Admit
from lookonce.shared.images.grey_levels import levels
from lookonce.shared.images.image_metadata import PNG_MAGIC

FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
    "PPM",
    "AVIF",
    "DIB",
    "JPEG2000",
    "QOI",
    "SGI",
    "PCX",
)
"""Supported formats by Pillow's names. Other plug-ins are excluded because they start programs (EPS), fetch files, or
accept nearly any bytes as an image (TGA). ``sources.image_names`` lists the extensions."""

MAXIMUM_PIXELS = 1 << 30
"""Most pixels of an image (height x width); RGB takes four bytes per pixel in Pillow."""

MAXIMUM_SIDE = (1 << 29) - 2
"""Longest side of an image in pixels; Pillow cannot store a longer row."""


class TooLargeError(ValueError):
    """The image has more pixels than accepted."""


_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the transposition that undoes it (EXIF 2.3, table 6)."""


def decoded_by_pillow(data: bytes, admit: Admit, colour_map: bytes = b"") -> Image.Image:
    """Decode an image file to upright RGB.

    Args:
        data: content of the file.
        admit: see ``Admit``.
        colour_map: colour map of a TIFF that replaces Pillow's; all reds, all greens, all blues.

    Raises:
        TooLargeError: the image has more pixels than accepted.
        Exception: of many types; the image cannot be decoded.
    """
    # A PNG is opened by its class, because Image.open hides what is damaged.
    is_png = data.startswith(PNG_MAGIC)
    image = PngImageFile(io.BytesIO(data)) if is_png else Image.open(io.BytesIO(data), formats=FORMATS)
    require_size(*image.size)
    if image.mode == "P" and image.palette is None:
        raise ValueError("its palette is missing")
    admit(image.width * image.height * _bytes_per_pixel(image))
    if colour_map:
        image.palette = ImagePalette.raw("RGB;L", colour_map)
    image.load()
    if is_png and "transparency" in image.info:
        image.info["transparency"] = _as_loaded(image.info["transparency"], image.mode, bits=data[24])
    return _to_rgb(upright(image, _orientation(image)))


def _as_loaded(transparency: Any, mode: str, *, bits: int) -> Any:
    """The transparent colour of a PNG, in the values that its pixels have after Pillow scaled them to 8 bits."""
    if mode == "L" and bits < 8:
        return transparency * (255 // ((1 << bits) - 1))
    return tuple(value >> 8 for value in transparency) if mode == "RGB" and bits == 16 else transparency


def require_size(width: int, height: int) -> None:
    """Refuse an image with more pixels than accepted.

    Raises:
        TooLargeError: the image is too large.
    """
    if width * height > MAXIMUM_PIXELS or max(width, height) > MAXIMUM_SIDE:
        raise TooLargeError(f"{width} x {height} pixels are more than the {MAXIMUM_PIXELS} that are accepted")


def upright(image: Image.Image, orientation: object) -> Image.Image:
    """The image rotated by its EXIF orientation; unchanged if the orientation is invalid."""
    transposition = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if transposition is None else image.transpose(transposition)


def _orientation(image: Image.Image) -> object:
    # Not ImageOps.exif_transpose: it writes the EXIF block again, and fails if the block is damaged.
    try:
        return image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # a damaged EXIF block has no orientation
        return None


def _bytes_per_pixel(image: Image.Image) -> int:
    """Most memory for decoding and for a view as large as the image, in bytes per pixel."""
    if image.has_transparency_data:
        return 20  # the image, its RGBA, white, their composite, and RGB
    if image.mode == "F" or image.mode.startswith("I"):
        return 14
    return 12 if image.info.get("progressive") else 9  # 12 with libjpeg's coefficients


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied grey, which Pillow converts only to LA
        image = image.convert("LA")
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_grey(image).convert("RGB")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), opaque).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """Convert 16-bit and float grey to 8-bit grey; the transparent value of a PNG becomes white."""
    values = np.asarray(image)
    grey = levels(values if image.mode == "F" else values.astype(np.uint16), 16)
    if "transparency" in image.info:
        grey = np.where(values == image.info["transparency"], np.uint8(255), grey)
    return Image.fromarray(grey)
