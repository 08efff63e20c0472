"""Views: RandomResizedCrop and mirroring as a pure function of (recipe version, sample key, augmentation seed).

The crop follows torchvision's ``RandomResizedCrop`` (ten attempts, then a central crop) with other random numbers.
Teacher and student see the same view (MaskAlign, arXiv 2211.08887, section 3), so it is drawn once.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookonce.shared.errors import SourceError, UsageError
from lookonce.shared.randomness import random_uniform
from lookonce.shared.view_recipe import ViewParameters, ViewRecipe

__all__ = ["ViewParameters", "ViewRecipe", "apply_view", "center_view", "draw_view", "pixel_digest"]

ATTEMPTS = 10
"""Number of random crops that are tried before the central one, as in torchvision."""

LONGEST_STRIP = 16
"""Aspect ratio of a source image beyond which the centre view uses the central part only."""


def draw_view(recipe: ViewRecipe, *, key: str, seed: int, source_height: int, source_width: int) -> ViewParameters:
    """Draw the view of one sample under one augmentation seed.

    It always draws 41 uniforms of the stream ("view", version, seed, key). Number 0 decides the flip, numbers 1 + 4a to
    4 + 4a are area, ratio, top and left of attempt a. A released order never changes.

    Args:
        recipe: scale, ratio and flip probability.
        key: key of the sample in its source.
        seed: augmentation seed.
        source_height: height of the upright image in pixels, at least 1.
        source_width: width of the upright image in pixels, at least 1.

    Returns:
        A crop of at least 1 x 1 inside the image.

    >>> view = draw_view(ViewRecipe(), key="a.jpg", seed=0, source_height=375, source_width=500)
    >>> view == draw_view(ViewRecipe(), key="a.jpg", seed=0, source_height=375, source_width=500)
    True
    """
    uniforms = random_uniform(1 + 4 * ATTEMPTS, "view", recipe.VERSION, seed, key).tolist()
    top, left, height, width = _draw_box(recipe, uniforms[1:], source_height, source_width)
    return ViewParameters(
        top=top,
        left=left,
        height=height,
        width=width,
        flip=uniforms[0] < recipe.flip_probability,
        source_height=source_height,
        source_width=source_width,
    )


def _draw_box(
    recipe: ViewRecipe, uniforms: list[float], source_height: int, source_width: int
) -> tuple[int, int, int, int]:
    area = source_height * source_width
    least_log, greatest_log = math.log(recipe.ratio[0]), math.log(recipe.ratio[1])
    for attempt in range(ATTEMPTS):
        for_area, for_ratio, for_top, for_left = uniforms[4 * attempt : 4 * attempt + 4]
        crop_area = area * (recipe.scale[0] + for_area * (recipe.scale[1] - recipe.scale[0]))
        ratio = math.exp(least_log + for_ratio * (greatest_log - least_log))
        width = round(math.sqrt(crop_area * ratio))
        height = round(math.sqrt(crop_area / ratio))
        if 0 < width <= source_width and 0 < height <= source_height:
            top = int(for_top * (source_height - height + 1))
            left = int(for_left * (source_width - width + 1))
            return top, left, height, width
    return _central_box(recipe, source_height, source_width)


def _central_box(recipe: ViewRecipe, source_height: int, source_width: int) -> tuple[int, int, int, int]:
    height, width = source_height, source_width
    if width / height < recipe.ratio[0]:
        height = max(1, round(width / recipe.ratio[0]))
    elif width / height > recipe.ratio[1]:
        width = max(1, round(height * recipe.ratio[1]))
    return (source_height - height) // 2, (source_width - width) // 2, height, width


def apply_view(image: Image.Image, parameters: ViewParameters, size: int) -> NDArray[np.uint8]:
    """Compute a view of an image: crop, then resize (Pillow bicubic), then mirror.

    Args:
        image: mode RGB, upright, as ``decode_rgb`` returns it.
        parameters: parameters that were drawn for this image.
        size: side of the view in pixels.

    Returns:
        uint8, shape (size, size, 3), C order.

    Raises:
        SourceError: the size of the image differs from that in ``parameters``.
    """
    _require_rgb(image)
    expected = (parameters.source_width, parameters.source_height)
    if image.size != expected:
        raise SourceError(
            f"the image has changed since its view was drawn: expected {expected[0]} x {expected[1]} pixels "
            f"(width x height), found {image.size[0]} x {image.size[1]}; restore the image or extract again"
        )
    crop = _crop(image, parameters.top, parameters.left, parameters.height, parameters.width)
    view = crop.resize((size, size), Image.Resampling.BICUBIC)
    if parameters.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.array(view, dtype=np.uint8)


def center_view(image: Image.Image, size: int, resize_ratio: float = 256 / 224) -> NDArray[np.uint8]:
    """The evaluation view: shorter side resized to ``round(size * resize_ratio)`` (bicubic), then the central square.

    The pixels are those of torchvision's ``Resize`` and ``CenterCrop``. Of images longer than 16 times their width,
    only the central part is resized: a 5000 x 1 image would become 1,280,000 x 256.

    Args:
        image: mode RGB.
        size: side of the view in pixels.
        resize_ratio: shorter side divided by view side, at least 1.

    Returns:
        uint8, shape (size, size, 3), C order.

    Raises:
        UsageError: ``size`` or ``resize_ratio`` is below 1.
    """
    _require_rgb(image)
    if size < 1 or resize_ratio < 1:
        raise UsageError(f"centre view: expected size and ratio of at least 1, found {size} and {resize_ratio}")
    shorter = min(image.size)
    width, height = (min(side, LONGEST_STRIP * shorter) for side in image.size)
    if (width, height) != image.size:
        image = _crop(image, (image.height - height) // 2, (image.width - width) // 2, height, width)
    resized_shorter = round(size * resize_ratio)
    width, height = resized_shorter * width // shorter, resized_shorter * height // shorter
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.array(_crop(resized, top, left, size, size), dtype=np.uint8)


def pixel_digest(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """First 16 bytes of the SHA-256 of the pixels in C order, which identifies a replayed view.

    Args:
        pixels: uint8, any shape; by convention the patchified view, (patch, patch_size * patch_size * 3).

    Returns:
        uint8, shape (16,).
    """
    if pixels.dtype != np.uint8:
        raise UsageError(f"pixel digest: expected uint8 pixels, found {pixels.dtype}")
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data).digest()
    return np.frombuffer(digest[:16], dtype=np.uint8).copy()


def _crop(image: Image.Image, top: int, left: int, height: int, width: int) -> Image.Image:
    # Pasting at a negative offset crops; Image.crop would refuse large crops by Pillow's process-wide pixel limit.
    crop = Image.new("RGB", (width, height), None)
    crop.paste(image, (-left, -top))
    return crop


def _require_rgb(image: Image.Image) -> None:
    if image.mode != "RGB":
        raise UsageError(f"view: expected an image of mode RGB, found {image.mode} (use decode_rgb)")
