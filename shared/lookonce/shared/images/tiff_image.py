"""Decodes TIFFs to upright 8-bit RGB: by Pillow if it reads them correctly, otherwise from their samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from lookonce.shared.images.decoding_room import Admit
from lookonce.shared.images.grey_levels import levels
from lookonce.shared.images.pillow_image import TooLargeError, decoded_by_pillow, require_size, upright
from lookonce.shared.images.tiff_layout import (
    COLOUR_MAP,
    PALETTE,
    PHOTOMETRIC,
    PLANAR,
    SAMPLES_PER_PIXEL,
    WHITE_IS_ZERO,
    TiffLayout,
    can_be_laid_out,
    numbers,
    pillow_is_right,
    tiff_layout,
    tiff_tags,
)
from lookonce.shared.images.tiff_metadata import PIXEL_TAGS, metadata_is_sound, tiff_without_metadata
from lookonce.shared.images.tiff_samples import tiff_samples


def decoded_tiff(data: bytes, admit: Admit) -> Image.Image:
    """Decode a TIFF to upright RGB.

    Raises:
        TooLargeError: the image has more pixels than accepted.
        Exception: of many types; the image cannot be decoded.
    """
    if not metadata_is_sound(data):
        return _decoded(tiff_without_metadata(data), admit)
    try:
        return _decoded(data, admit)
    except (MemoryError, TooLargeError):
        raise
    except Exception:  # of many types, perhaps because of a metadata tag
        return _decoded(tiff_without_metadata(data), admit)


def _decoded(data: bytes, admit: Admit) -> Image.Image:
    """Decode by Pillow, or by ``tiff_samples`` if Pillow misreads or refuses the samples."""
    tags = tiff_tags(data)
    one_sample = numbers(tags, SAMPLES_PER_PIXEL, (1,)) == (1,)
    if one_sample and numbers(tags, PLANAR) == (2,):  # one plane, which Pillow reads as 8-bit
        return _decoded(tiff_without_metadata(data, PIXEL_TAGS - {PLANAR}), admit)
    if pillow_is_right(tags):
        try:
            return decoded_by_pillow(data, admit, _eight_bit_colour_map(tags))
        except (MemoryError, TooLargeError):
            raise
        except Exception:  # of many types; Pillow refuses some planes with alpha only at load()
            if not can_be_laid_out(tags):
                raise
    layout = tiff_layout(tags, data)
    require_size(layout.width, layout.height)
    admit(layout.width * layout.height * layout.bytes_per_pixel)
    return upright(_over_white(tiff_samples(data, layout), layout), layout.orientation)


def _eight_bit_colour_map(tags: ImageFileDirectory_v2) -> bytes:
    """The colour map of a TIFF with values up to 255 instead of 65535, which some writers produce; else empty."""
    colours = numbers(tags, COLOUR_MAP) if numbers(tags, PHOTOMETRIC, (-1,))[0] == PALETTE else ()
    return bytes(colours) if colours and max(colours) < 256 else b""


def _over_white(samples: NDArray[np.generic], layout: TiffLayout) -> Image.Image:
    """Convert samples (height, width, colours and perhaps alpha) to RGB over white."""
    colours = levels(samples[..., : layout.colours], layout.bits)
    if layout.photometric == WHITE_IS_ZERO:
        colours = 255 - colours
    if layout.alpha is not None:
        opaque = levels(samples[..., layout.colours :], layout.bits).astype(np.uint16)
        lit = (colours * opaque + 127) // 255 if layout.alpha == "unassociated" else colours.astype(np.uint16)
        colours = np.minimum(lit + 255 - opaque, 255).astype(np.uint8)
    return Image.fromarray(colours[..., 0] if layout.colours == 1 else colours).convert("RGB")
