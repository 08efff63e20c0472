"""Any image file's bytes to upright 8-bit RGB, or one error that names the file and says why not.

Colour profiles (ICC) are ignored, as the released training code and torchvision ignore them.
"""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImagePalette, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from lookonce.shared.errors import UnreadableImageError
from lookonce.shared.grey_levels import levels
from lookonce.shared.image_metadata import PNG_MAGIC, without_metadata
from lookonce.shared.tiff_layout import (
    COLOUR_MAP,
    PALETTE,
    PHOTOMETRIC,
    PLANAR,
    SAMPLES_PER_PIXEL,
    TIFF_MAGICS,
    WHITE_IS_ZERO,
    TiffLayout,
    can_be_laid_out,
    numbers,
    pillow_is_right,
    tiff_layout,
    tiff_tags,
)
from lookonce.shared.tiff_metadata import PIXEL_TAGS, metadata_is_sound, tiff_without_metadata
from lookonce.shared.tiff_samples import tiff_samples

FORMATS = (
    "JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "DIB", "JPEG2000", "QOI", "SGI", "PCX",
)  # fmt: skip
"""Pillow's names of what is decoded; closed, because other plug-ins start programs (EPS), fetch files, or take nearly
any bytes for an image (TGA). ``sources.image_names`` says how such files are called."""

MAXIMUM_PIXELS = 1 << 30
"""Most pixels of an image (height x width); RGB takes four bytes a pixel in Pillow."""

MAXIMUM_SIDE = (1 << 29) - 2
"""Longest side of an image, pixels; Pillow cannot hold a longer row."""


class TooLargeError(ValueError):
    """More pixels than are accepted."""


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


def decode_rgb(data: bytes, where: str) -> Image.Image:
    """Decode an image file: upright by its EXIF orientation, alpha over white, the first frame of an animation.

    What a sample means follows from the file's header, never from the values that occur: see ``grey_levels.levels``.
    Metadata that are damaged or too large cost no pixels.

    While an image is being decoded, Pillow's process-wide pixel limit and tolerance of truncated files are set for the
    purpose and Pillow's Python warnings are silenced; all three are put back when the last decoding thread is done.

    Args:
        data: the file's content, in one of ``FORMATS``; at most ``MAXIMUM_PIXELS`` pixels.
        where: what to call the image in an error, e.g. its key.

    Returns:
        Image of mode RGB, at least 1 x 1.

    Raises:
        UnreadableImageError: not an image, truncated, corrupt, too large, or with NaN or infinite pixels.
        MemoryError: the machine, not the image, is at fault; names ``where``.
    """
    with _pillow_settings():
        try:
            return _decoded(data)
        except MemoryError as error:
            raise MemoryError(f"{where}: not enough memory to decode this image of {len(data)} bytes") from error
        except Exception as error:  # Pillow's plug-ins raise nearly every type on corrupt bytes
            raise UnreadableImageError(
                f"{where}: not a readable image of {len(data)} bytes: {_reason(error)} "
                "(replace or remove the file, or let bad images be skipped)"
            ) from error


def _decoded(data: bytes) -> Image.Image:
    if not data:
        raise ValueError("the file is empty")
    if data.startswith(TIFF_MAGICS):
        return _decoded_tiff(data)
    try:
        return _decoded_by_pillow(data)
    except (MemoryError, TooLargeError):
        raise
    except Exception as error:
        problem = error
    for cleaned in without_metadata(data):
        try:
            return _decoded_by_pillow(cleaned)
        except (MemoryError, TooLargeError):
            raise
        except Exception as error:
            problem = error
    raise problem


def _decoded_by_pillow(data: bytes, colour_map: bytes = b"") -> Image.Image:
    # A PNG is opened by its class: Image.open would not say what is damaged.
    is_png = data.startswith(PNG_MAGIC)
    image = PngImageFile(io.BytesIO(data)) if is_png else Image.open(io.BytesIO(data), formats=FORMATS)
    _require_size(*image.size)
    if image.mode == "P" and image.palette is None:
        raise ValueError("its palette is missing")
    if colour_map:
        image.palette = ImagePalette.raw("RGB;L", colour_map)
    image.load()
    if is_png and "transparency" in image.info:
        image.info["transparency"] = _as_loaded(image.info["transparency"], image.mode, bits=data[24])
    return _to_rgb(_upright(image))


def _as_loaded(transparency: Any, mode: str, *, bits: int) -> Any:
    """The transparent colour of a PNG in the values that its pixels have once Pillow has scaled them to 8 bits."""
    if mode == "L" and bits < 8:
        return transparency * (255 // ((1 << bits) - 1))
    return tuple(value >> 8 for value in transparency) if mode == "RGB" and bits == 16 else transparency


def _decoded_tiff(data: bytes) -> Image.Image:
    if not metadata_is_sound(data):
        return _decoded_sound_tiff(tiff_without_metadata(data))
    try:
        return _decoded_sound_tiff(data)
    except (MemoryError, TooLargeError):
        raise
    except Exception:  # of many types; perhaps over what a tag of the metadata says
        return _decoded_sound_tiff(tiff_without_metadata(data))


def _decoded_sound_tiff(data: bytes) -> Image.Image:
    """Samples that Pillow takes for others, or refuses, are read by ``tiff_samples``."""
    tags = tiff_tags(data)
    if numbers(tags, PLANAR) == (2,) and numbers(tags, SAMPLES_PER_PIXEL, (1,)) == (
        1,
    ):  # which Pillow takes for 8 bits
        return _decoded_sound_tiff(tiff_without_metadata(data, PIXEL_TAGS - {PLANAR}))
    if pillow_is_right(tags):
        try:
            return _decoded_by_pillow(data, _eight_bit_colour_map(tags))
        except (MemoryError, TooLargeError):
            raise
        except Exception:  # of many types; some planes with alpha are refused only when they are loaded
            if not can_be_laid_out(tags):
                raise
    layout = tiff_layout(tags, data)
    _require_size(layout.width, layout.height)
    image = _over_white(tiff_samples(data, layout), layout)
    transposition = _UPRIGHT.get(layout.orientation)
    return image if transposition is None else image.transpose(transposition)


def _eight_bit_colour_map(tags: ImageFileDirectory_v2) -> bytes:
    """The colour map of a TIFF that counts to 255 instead of 65535, as some writers make it; else nothing."""
    colours = numbers(tags, COLOUR_MAP) if numbers(tags, PHOTOMETRIC, (-1,))[0] == PALETTE else ()
    return bytes(colours) if colours and max(colours) < 256 else b""


def _over_white(samples: NDArray[np.generic], layout: TiffLayout) -> Image.Image:
    """RGB of a TIFF's samples, (height, width, colours and perhaps alpha)."""
    colours = levels(samples[..., : layout.colours], layout.bits)
    if layout.photometric == WHITE_IS_ZERO:
        colours = 255 - colours
    if layout.alpha is not None:
        opaque = levels(samples[..., layout.colours :], layout.bits).astype(np.uint16)
        lit = (colours * opaque + 127) // 255 if layout.alpha == "unassociated" else colours.astype(np.uint16)
        colours = np.minimum(lit + 255 - opaque, 255).astype(np.uint8)
    return Image.fromarray(colours[..., 0] if layout.colours == 1 else colours).convert("RGB")


def _require_size(width: int, height: int) -> None:
    if width * height > MAXIMUM_PIXELS or max(width, height) > MAXIMUM_SIDE:
        raise TooLargeError(f"{width} x {height} pixels are more than the {MAXIMUM_PIXELS} that are accepted")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # Pillow's own text holds a memory address: not reproducible
        return f"the content is none of the formats {', '.join(FORMATS)}, or its header is damaged"
    if isinstance(error, struct.error):
        return "it is cut off within its header"
    return str(error) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose: it writes the EXIF block anew, and fails on damaged ones whose pixels are sound.
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # a damaged EXIF block says nothing about the orientation
        return image
    transposition = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if transposition is None else image.transpose(transposition)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # grey multiplied by its alpha, which Pillow converts to nothing else
        image = image.convert("LA")
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_grey(image).convert("RGB")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), opaque).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """16-bit and float grey as 8-bit grey; the one transparent value that a PNG may name becomes white."""
    values = np.asarray(image)
    grey = levels(values if image.mode == "F" else values.astype(np.uint16), 16)
    if "transparency" in image.info:
        grey = np.where(values == image.info["transparency"], np.uint8(255), grey)
    return Image.fromarray(grey)


_settings_lock = threading.Lock()
_decoding = 0
_put_back = contextlib.ExitStack()


@contextlib.contextmanager
def _pillow_settings() -> Iterator[None]:
    """Our settings of Pillow and the warnings filter, shared by all threads that decode at the same time.

    A plain ``warnings.catch_warnings`` in each thread would put the filters back in the wrong order.
    """
    global _decoding
    with _settings_lock:
        if _decoding == 0:
            _put_back.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _put_back.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            _put_back.callback(setattr, ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES)
            Image.MAX_IMAGE_PIXELS = MAXIMUM_PIXELS
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _decoding += 1
    try:
        yield
    finally:
        with _settings_lock:
            _decoding -= 1
            if _decoding == 0:
                _put_back.close()
