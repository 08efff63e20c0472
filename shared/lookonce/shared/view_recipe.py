"""The recipe of views, and the parameters of one drawn view."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.errors import UsageError

JPEG_SUBSAMPLING = "4:4:4"
"""In a view's JPEG, colour has the resolution of brightness."""

JPEG_LONGEST_SIDE = 65_500
"""Longest side of an image that libjpeg encodes, in pixels."""


@dataclass(frozen=True, kw_only=True)
class ViewRecipe:
    """Distribution of views. Defaults are those of the released recipe, without colour augmentation."""

    NAME: ClassVar[str] = "random-resized-crop-flip"
    VERSION: ClassVar[int] = 1
    """Incremented whenever the same key and seed would give another view."""
    INTERPOLATION: ClassVar[str] = "bicubic-antialias (Pillow)"

    size: int = 224
    """Side of the square view in pixels, at least 1."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Least and greatest share of the image's area, in (0, 1]."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest aspect ratio (width / height) of the crop, above 0."""
    flip_probability: float = 0.5
    """Share of mirrored views, in [0, 1]."""
    jpeg_quality: int | None = None
    """Quality, 1 to 100, of the JPEG (4:4:4) that a view is encoded as before anyone looks; None: it is not encoded."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"view size: expected at least 1 pixel, found {self.size}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UsageError(f"view scale: expected 0 < least <= greatest <= 1, found {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise UsageError(f"view ratio: expected 0 < least <= greatest, found {self.ratio}")
        if not 0 <= self.flip_probability <= 1:
            raise UsageError(f"flip probability: expected 0 to 1, found {self.flip_probability}")
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise UsageError(f"JPEG quality: expected 1 to 100, found {self.jpeg_quality}")
        if self.jpeg_quality is not None and self.size > JPEG_LONGEST_SIDE:
            raise UsageError(f"view size {self.size}: a JPEG has at most {JPEG_LONGEST_SIDE} pixels along a side")

    @classmethod
    def parse(
        cls, *, size: int, crop_scale: str, crop_ratio: str, flip: float, jpeg_quality: int | None = None
    ) -> ViewRecipe:
        """The recipe of command-line options.

        Args:
            size: side of the view in pixels.
            crop_scale: least and greatest share of the area, such as ``0.2,1``.
            crop_ratio: least and greatest width / height, such as ``3/4,4/3``; 1.3333 is 4/3.
            flip: share of mirrored views.
            jpeg_quality: of the JPEG that views are encoded as; None if they are not.

        Raises:
            UsageError: a value is out of range; the message names the option.

        >>> ViewRecipe.parse(size=224, crop_scale="0.2,1", crop_ratio="0.75,1.3333", flip=0.5) == ViewRecipe()
        True
        """
        scale = _two_numbers("--crop-scale", crop_scale, "0.2,1", most=1)
        ratio = _two_numbers("--crop-ratio", crop_ratio, "3/4,4/3", most=1000)
        if not 0 <= flip <= 1:
            raise UsageError(f"--flip {flip}: must be the share of mirrored views, from 0 (none) to 1 (all)")
        if jpeg_quality is not None and not 1 <= jpeg_quality <= 100:
            raise UsageError(f"--jpeg-quality {jpeg_quality}: must be 1 to 100")
        return cls(size=size, scale=scale, ratio=ratio, flip_probability=flip, jpeg_quality=jpeg_quality)

    def document(self) -> dict[str, Any]:
        """The recipe as a JSON-compatible document, as it enters a fingerprint.

        >>> ViewRecipe().document()["scale"]
        [0.2, 1.0]
        """
        document: dict[str, Any] = {
            "name": self.NAME,
            "version": self.VERSION,
            "interpolation": self.INTERPOLATION,
            "size": self.size,
            "scale": [float(bound) for bound in self.scale],
            "ratio": [float(bound) for bound in self.ratio],
            "flip_probability": float(self.flip_probability),
        }
        if self.jpeg_quality is not None:  # left out otherwise: recipes keep the fingerprint they had before the field
            document["jpeg"] = {"quality": self.jpeg_quality, "subsampling": JPEG_SUBSAMPLING}
        return document


def view_sentence(document: Mapping[str, Any]) -> str:
    """One line about the crops and mirroring of a recipe's document.

    >>> view_sentence(ViewRecipe().document())
    '20 to 100 % of the area, 3/4 to 4/3 as wide as high, 50 % mirrored'
    """
    scale, ratio = document["scale"], [str(Fraction(bound).limit_denominator(1000)) for bound in document["ratio"]]
    jpeg = f", as JPEG of quality {document['jpeg']['quality']}" if "jpeg" in document else ""
    return (
        f"{100 * scale[0]:.4g} to {100 * scale[1]:.4g} % of the area, {ratio[0]} to {ratio[1]} as wide as high"
        f", {100 * document['flip_probability']:.4g} % mirrored{jpeg}"
    )


def _two_numbers(flag: str, text: str, example: str, *, most: int) -> tuple[float, float]:
    try:
        least, greatest = (_number(part) for part in text.split(","))
        if 0 < least <= greatest <= most:
            return least, greatest
    except (ValueError, ZeroDivisionError, OverflowError):
        pass
    raise UsageError(
        f"{flag} {text}: must be the least and the greatest value, above 0 and at most {most}, such as {example}"
    )


def _number(text: str) -> float:
    """Read a decimal or a fraction; thirds with four decimals or more are exact thirds."""
    exact = Fraction(text.strip())
    near = exact.limit_denominator(3)
    decimals = len(text.strip().partition(".")[2])
    return float(near if decimals >= 4 and round(near, decimals) == exact else exact)


@dataclass(frozen=True, kw_only=True)
class ViewParameters:
    """Parameters of one drawn view: the crop box in the upright source image, and whether the crop is mirrored."""

    top: int
    """First row of the crop in pixels."""
    left: int
    """First column of the crop in pixels."""
    height: int
    """Height of the crop in pixels, at least 1."""
    width: int
    """Width of the crop in pixels, at least 1."""
    flip: bool
    """Whether the crop is mirrored left to right after the resize."""
    source_height: int
    """Height of the image in pixels."""
    source_width: int
    """Width of the image in pixels."""

    def __post_init__(self) -> None:
        rows_fit = 0 <= self.top < self.top + self.height <= self.source_height
        columns_fit = 0 <= self.left < self.left + self.width <= self.source_width
        if not (rows_fit and columns_fit):
            raise UsageError(f"view: expected a crop of at least 1 x 1 inside the image, found {self}")

    def to_row(self) -> NDArray[np.int32]:
        """(top, left, height, width, flip, source height, source width), int32, shape (7,)."""
        box = (self.top, self.left, self.height, self.width)
        return np.array([*box, self.flip, self.source_height, self.source_width], dtype=np.int32)

    @classmethod
    def from_row(cls, row: NDArray[np.int32]) -> ViewParameters:
        """The inverse of ``to_row``.

        Raises:
            UsageError: the row is not seven numbers with a flip of 0 or 1, or the crop is outside the image.
        """
        if row.shape != (7,) or row[4] not in (0, 1):
            raise UsageError(f"view row: expected 7 numbers with a flip of 0 or 1, found {row.tolist()}")
        top, left, height, width, flip, source_height, source_width = (int(value) for value in row)
        return cls(
            top=top,
            left=left,
            height=height,
            width=width,
            flip=bool(flip),
            source_height=source_height,
            source_width=source_width,
        )
