"""Any image file's bytes to upright 8-bit RGB, or one error that names the file and says why not.

Colour profiles (ICC) are ignored, as the released training code and torchvision ignore them.
"""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from lookonce.shared.errors import UnreadableImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of what is decoded; closed, because other plug-ins start programs (EPS) or fetch files."""

MAXIMUM_PIXELS = 1 << 30
"""Most pixels of an image (height x width); RGB takes four bytes a pixel in Pillow."""

MAXIMUM_SIDE = (1 << 29) - 2
"""Longest side of an image, pixels; Pillow cannot hold a longer row."""

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

    Grey of 16 bits is scaled by 1/257 (never clipped). Integer grey beyond 16 bits, and float grey beyond [0, 255], is
    stretched from its own minimum and maximum to [0, 255]; float grey within [0, 1] is multiplied by 255.

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
            image = _load(data)
            return _to_rgb(_upright(image))
        except MemoryError as error:
            raise MemoryError(f"{where}: not enough memory to decode this image of {len(data)} bytes") from error
        except Exception as error:  # Pillow's plug-ins raise nearly every type on corrupt bytes
            raise UnreadableImageError(
                f"{where}: not a readable image of {len(data)} bytes: {_reason(error)} "
                "(replace or remove the file, or let bad images be skipped)"
            ) from error


def _load(data: bytes) -> Image.Image:
    if not data:
        raise ValueError("the file is empty")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > MAXIMUM_PIXELS or max(width, height) > MAXIMUM_SIDE:
        raise ValueError(f"{width} x {height} pixels are more than the {MAXIMUM_PIXELS} that are accepted")
    image.load()
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # Pillow's own text holds a memory address: not reproducible
        return f"the content is none of the formats {', '.join(FORMATS)}, or its header is damaged"
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
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_grey(image).convert("RGB")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), opaque).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey as 8-bit grey; the one transparent value that a PNG may name becomes white."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("its float pixels hold NaN or infinity")
    if image.mode != "F" and low >= 0 and high <= 0xFFFF:
        grey = (values.astype(np.uint32) + 128) // 257  # to nearest; 257 is odd, so there are no halves
    elif image.mode == "F" and low >= 0 and high <= 255:
        grey = np.rint(values * np.float64(255 if high <= 1 else 1))
    else:
        grey = np.rint((values.astype(np.float64) - low) * (255 / ((high - low) or 1)))
    if "transparency" in image.info:
        grey = np.where(values == image.info["transparency"], 255, grey)
    pixels: NDArray[np.uint8] = grey.astype(np.uint8)
    return Image.fromarray(pixels)


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
