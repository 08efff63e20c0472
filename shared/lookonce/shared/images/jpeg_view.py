"""Views as JPEG: encoded before the teacher looks, so that the decoded pixels are what teacher and student see."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from lookonce.shared.view_recipe import JPEG_SUBSAMPLING


def encode_view(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """Encode a view: baseline JPEG, 4:4:4, with Huffman tables of its own, which take 5 % off its bytes.

    Args:
        pixels: uint8 (side, side, 3).
        quality: of libjpeg, 1 to 100.
    """
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=quality, subsampling=JPEG_SUBSAMPLING, optimize=True)
    return content.getvalue()


def decode_view(content: bytes, side: int) -> NDArray[np.uint8]:
    """Decode a view.

    Args:
        content: a JPEG.
        side: of the view in pixels.

    Returns:
        uint8 (side, side, 3), C order.

    Raises:
        ValueError: it is no JPEG, is damaged, or is not an RGB image of that size.
    """
    try:
        with JpegImageFile(io.BytesIO(content)) as image:
            mode, size = image.mode, image.size
            if (mode, size) == ("RGB", (side, side)):
                return np.array(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many types for damaged bytes
        raise ValueError(f"it is not a readable JPEG of {len(content)} bytes: {error}") from error
    raise ValueError(
        f"it is a JPEG of mode {mode}, {size[0]} x {size[1]} pixels, expected mode RGB, {side} x {side} pixels"
    )
