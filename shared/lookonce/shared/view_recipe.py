"""What a view is: the recipe it is drawn by, and the parameters that were drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ViewRecipe:
    """How views are drawn. Defaults are the released recipe's; no colour augmentation."""

    NAME: ClassVar[str] = "random-resized-crop-flip"
    VERSION: ClassVar[int] = 1
    """Raised whenever the same key and seed would give another view."""
    INTERPOLATION: ClassVar[str] = "bicubic-antialias (Pillow)"

    size: int = 224
    """Side of the square view, pixels, at least 1."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Least and greatest share of the image's area, in (0, 1]."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest aspect ratio (width / height) of the crop, above 0."""
    flip_probability: float = 0.5
    """Share of mirrored views, in [0, 1]."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"view size: expected at least 1 pixel, found {self.size}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UsageError(f"view scale: expected 0 < least <= greatest <= 1, found {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise UsageError(f"view ratio: expected 0 < least <= greatest, found {self.ratio}")
        if not 0 <= self.flip_probability <= 1:
            raise UsageError(f"flip probability: expected 0 to 1, found {self.flip_probability}")

    def document(self) -> dict[str, Any]:
        """The JSON object that stands for this recipe in a fingerprint.

        >>> ViewRecipe().document()["scale"]
        [0.2, 1.0]
        """
        return {
            "name": self.NAME,
            "version": self.VERSION,
            "interpolation": self.INTERPOLATION,
            "size": self.size,
            "scale": [float(bound) for bound in self.scale],
            "ratio": [float(bound) for bound in self.ratio],
            "flip_probability": float(self.flip_probability),
        }


@dataclass(frozen=True, kw_only=True)
class ViewParameters:
    """What was drawn for one view: the crop box in the upright source image, and whether the crop is mirrored."""

    top: int
    """First row of the crop, pixels."""
    left: int
    """First column of the crop, pixels."""
    height: int
    """Rows of the crop, at least 1."""
    width: int
    """Columns of the crop, at least 1."""
    flip: bool
    """Mirrored left to right after the resize."""
    source_height: int
    """Rows of the whole image."""
    source_width: int
    """Columns of the whole image."""

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
            UsageError: not seven numbers, a flip other than 0 or 1, or a crop outside the image.
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
