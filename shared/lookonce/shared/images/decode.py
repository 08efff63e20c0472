"""Any image file's bytes to upright 8-bit RGB, or one error that names the file and says why not.

Colour profiles (ICC) are ignored, as the released training code and torchvision ignore them.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import warnings
from collections.abc import Generator

from PIL import Image, ImageFile, UnidentifiedImageError

from lookonce.shared.errors import UnreadableImageError
from lookonce.shared.images.decoding_room import Admit, shared_room
from lookonce.shared.images.image_metadata import without_metadata
from lookonce.shared.images.pillow_image import FORMATS, MAXIMUM_PIXELS, TooLargeError, decoded_by_pillow
from lookonce.shared.images.tiff_image import decoded_tiff
from lookonce.shared.images.tiff_layout import TIFF_MAGICS

__all__ = ["FORMATS", "MAXIMUM_PIXELS", "decode_rgb", "decoded_rgb"]


@contextlib.contextmanager
def decoded_rgb(data: bytes, where: str) -> Generator[Image.Image, None, None]:
    """``decode_rgb`` for threads that decode side by side: within the block, the image has its place in memory.

    Images that do not find room beside those that other threads hold wait for it (see ``DecodingRoom``).

    Raises:
        UnreadableImageError: as ``decode_rgb``; or it takes more memory than there is.
        MemoryError: as ``decode_rgb``.
    """
    with shared_room().place() as place:
        yield _named(data, where, place.admit)


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
    return _named(data, where, lambda _: None)


def _named(data: bytes, where: str, admit: Admit) -> Image.Image:
    """The image, or an error that says which one it is."""
    with _pillow_settings():
        try:
            return _decoded(data, admit)
        except MemoryError as error:
            raise MemoryError(f"{where}: not enough memory to decode this image of {len(data)} bytes") from error
        except Exception as error:  # Pillow's plug-ins raise nearly every type on corrupt bytes
            raise UnreadableImageError(
                f"{where}: not a readable image of {len(data)} bytes: {_reason(error)} "
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


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # Pillow's own text holds a memory address: not reproducible
        return f"the content is none of the formats {', '.join(FORMATS)}, or its header is damaged"
    if isinstance(error, struct.error):
        return "it is cut off within its header"
    return str(error) or type(error).__name__


_settings_lock = threading.Lock()
_decoding = 0
_put_back = contextlib.ExitStack()


@contextlib.contextmanager
def _pillow_settings() -> Generator[None, None, None]:
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
