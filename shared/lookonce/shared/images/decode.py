"""Decodes the bytes of an image file to upright 8-bit RGB, or raises one error with the file and the reason.

Colour profiles (ICC) are ignored, as in the released training code and in torchvision.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import warnings
from collections.abc import Generator

from PIL import Image, ImageFile, UnidentifiedImageError

from lookonce.shared.errors import UnreadableImageError
from lookonce.shared.files.stand_ins import HEAD_BYTES, stand_in
from lookonce.shared.images.decoding_room import Admit, shared_room
from lookonce.shared.images.image_metadata import without_metadata
from lookonce.shared.images.pillow_image import FORMATS, MAXIMUM_PIXELS, TooLargeError, decoded_by_pillow
from lookonce.shared.images.tiff_image import decoded_tiff
from lookonce.shared.images.tiff_layout import TIFF_MAGICS

__all__ = ["FORMATS", "MAXIMUM_PIXELS", "decode_rgb", "decoded_rgb"]


@contextlib.contextmanager
def decoded_rgb(data: bytes, where: str) -> Generator[Image.Image, None, None]:
    """``decode_rgb`` for parallel threads: memory for the image is reserved until the block ends.

    If other threads have reserved too much, it waits (see ``DecodingRoom``).

    Raises:
        UnreadableImageError: as ``decode_rgb``, or the image needs more memory than the machine has.
        MemoryError: as ``decode_rgb``.
    """
    with shared_room().place() as place:
        yield _named(data, where, place.admit)


def decode_rgb(data: bytes, where: str) -> Image.Image:
    """Decode an image file: upright by its EXIF orientation, alpha over white, the first frame of an animation.

    The file's header determines the meaning of sample values; see ``grey_levels.levels`` for the exceptions. Damaged or
    large metadata do not prevent decoding.

    During decoding, Pillow's process-wide pixel limit and tolerance of truncated files are changed, and Pillow's Python
    warnings are silenced. All three are restored when the last decoding thread has finished.

    Args:
        data: content of the file, in one of ``FORMATS``, with at most ``MAXIMUM_PIXELS`` pixels.
        where: name of the image for errors, such as its key.

    Returns:
        Image of mode RGB, at least 1 x 1.

    Raises:
        UnreadableImageError: it is not an image, is truncated, corrupt or too large, or has NaN or infinite pixels.
        MemoryError: the machine is short of memory; the message names ``where``.
    """
    return _named(data, where, lambda _: None)


def _named(data: bytes, where: str, admit: Admit) -> Image.Image:
    """Decode the image; errors name it."""
    with _pillow_settings():
        try:
            return _decoded(data, admit)
        except MemoryError as error:
            raise MemoryError(f"{where}: not enough memory to decode this image of {len(data)} bytes") from error
        except Exception as error:  # Pillow's plug-ins raise many types for corrupt bytes
            raise UnreadableImageError(
                f"{where}: not a readable image of {len(data)} bytes: {_reason(error, data)} "
                "(replace or remove the file, or let bad images be skipped)"
            ) from error


def _decoded(data: bytes, admit: Admit) -> Image.Image:
    if not data:
        raise ValueError("the file is empty")
    if data.startswith(TIFF_MAGICS):
        return decoded_tiff(data, admit)
    try:
        return decoded_by_pillow(data, admit)
    except (MemoryError, TooLargeError):
        raise
    except Exception as error:
        problem = error
    for cleaned in without_metadata(data):
        try:
            return decoded_by_pillow(cleaned, admit)
        except (MemoryError, TooLargeError):
            raise
        except Exception as error:
            problem = error
    raise problem


def _reason(error: Exception, data: bytes) -> str:
    """Why the image could not be decoded, in plain words where Pillow has none."""
    if (kind := stand_in(data[:HEAD_BYTES])) is not None:
        return f"it is {kind}"
    if isinstance(error, UnidentifiedImageError):  # Pillow's own text contains a memory address
        return f"the content is none of the formats {', '.join(FORMATS)}, or its header is damaged"
    text = str(error)
    if isinstance(error, struct.error) or "requires a buffer of at least" in text or text == "Truncated File Read":
        return "it is cut off within its header"
    if text == "not identified by this driver":
        return "its header is damaged"
    if isinstance(error, Image.DecompressionBombError):
        return f"its header claims more than the {MAXIMUM_PIXELS} pixels that are accepted"
    return text or type(error).__name__


_settings_lock = threading.Lock()
_decoding = 0
_restore = contextlib.ExitStack()


@contextlib.contextmanager
def _pillow_settings() -> Generator[None, None, None]:
    """Settings of Pillow and the warnings filter, shared by all threads that decode at the same time.

    With ``warnings.catch_warnings`` in each thread, filters would be restored in the wrong order.
    """
    global _decoding
    with _settings_lock:
        if _decoding == 0:
            _restore.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _restore.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            _restore.callback(setattr, ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES)
            Image.MAX_IMAGE_PIXELS = MAXIMUM_PIXELS
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _decoding += 1
    try:
        yield
    finally:
        with _settings_lock:
            _decoding -= 1
            if _decoding == 0:
                _restore.close()
