"""Reads masks: PNG files whose pixels are class indices."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from lookonce.shared.errors import SourceError
from lookonce.shared.images.image_metadata import PNG_MAGIC
from lookonce.shared.images.pillow_image import require_size

INDEX_MODES = frozenset({"1", "L", "P", "I;16", "I"})
"""Pillow's modes of PNGs with one channel."""


def read_class_mask(data: bytes, where: str) -> NDArray[np.uint16]:
    """The class index of each pixel: the grey value, or the index into the palette.

    Args:
        data: content of a PNG file of one channel, 1 to 16 bits.
        where: name of the mask for errors.

    Returns:
        uint16 (height, width).

    Raises:
        SourceError: it is not a PNG, has colours, or cannot be read.
    """
    if not data.startswith(PNG_MAGIC):
        raise SourceError(
            f"{where}: expected a mask as PNG, found another format (JPEG would change class indices); save it as PNG"
        )
    try:
        image = PngImageFile(io.BytesIO(data))
        require_size(*image.size)
        image.load()
    except Exception as error:  # Pillow raises many types for corrupt bytes
        raise SourceError(f"{where}: not a readable mask of {len(data)} bytes ({error}); replace the file") from error
    if image.mode not in INDEX_MODES:
        raise SourceError(
            f"{where}: expected a mask of one channel whose pixels are class indices, found colours (mode "
            f"{image.mode}); replace each colour by the index of its class, and save it as a grey or palette PNG"
        )
    indices = np.asarray(image)
    bits = data[24]
    if image.mode == "L" and bits < 8:  # Pillow scales the samples to 0 to 255
        indices = indices // (255 // ((1 << bits) - 1))
    return indices.astype(np.uint16)
