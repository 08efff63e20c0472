"""From masks to the class of each patch, from scores of patches to the class of each pixel, and IoU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lookonce.train.evaluation.segmentation.masked_images import MaskedImage

STRIP_VALUES = 1 << 24
"""Scores of pixels in memory at a time, about 64 MB in float32."""

# Shapes: N = g * g patches of a window, C classes, W windows of an image, H x X pixels of a mask.


def patch_classes(labels: NDArray[np.int64], grid: int, classes: int) -> NDArray[np.int64]:
    """The most frequent class of each patch; of equally frequent ones the first.

    Args:
        labels: classes of the pixels of a window, int64 (side, side); -1 does not count.
        grid: patches along a side, g.
        classes: number of classes.

    Returns:
        int64 (g * g,), row by row; -1 for patches without a pixel that counts.
    """
    side = len(labels)
    fine = max(side, grid)
    nearest = np.arange(fine) * side // fine  # a window with fewer pixels than patches is enlarged
    patch_of = np.arange(fine) * grid // fine
    labels = labels[nearest][:, nearest]
    places = (patch_of[:, None] * grid + patch_of) * classes + labels
    counts = np.bincount(places[labels >= 0], minlength=grid * grid * classes).reshape(grid * grid, classes)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), -1)


def pixel_classes(scores_WNC: Tensor, image: MaskedImage) -> Iterator[tuple[slice, Tensor]]:
    """The class of highest score of each pixel, in strips of rows.

    The scores of each window are upsampled bilinearly to the pixels that it covers (``align_corners=False``), and added
    where windows overlap.

    Args:
        scores_WNC: float32, on any device.
        image: gives the windows and the size of the mask.

    Yields:
        Rows of the mask, and int64 (rows, X).
    """
    windows, patches, classes = scores_WNC.shape
    grid = round(patches**0.5)
    scores_WggC = scores_WNC.view(windows, grid, grid, classes)
    height, width = image.mask.shape
    weight_sg = _bilinear(grid, image.side, scores_WNC.device)
    rows = max(1, STRIP_VALUES // (width * classes))
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        total = torch.zeros(stop - start, width, classes, device=scores_WNC.device)
        for (top, left), scores_ggC in zip(image.corners, scores_WggC, strict=True):
            first, last = max(start, top), min(stop, top + image.side)
            if first >= last:
                continue
            strip_rgC = torch.einsum("rg,ghc->rhc", weight_sg[first - top : last - top], scores_ggC)
            pixels_rsC = torch.einsum("xh,rhc->rxc", weight_sg, strip_rgC)
            total[first - start : last - start, left : left + image.side] += pixels_rsC
        yield slice(start, stop), total.argmax(dim=2)


def _bilinear(grid: int, side: int, device: torch.device) -> Tensor:
    """Weights of the patches of a row for each pixel of it, (side, grid): one axis of bilinear upsampling."""
    weight_1gs = functional.interpolate(
        torch.eye(grid, device=device)[None], size=side, mode="linear", align_corners=False
    )
    return weight_1gs[0].T


class ConfusionMatrix:
    """Counts of pixels by true and predicted class.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = np.zeros((classes, classes), dtype=np.int64)
        """int64 (true class, predicted class)."""

    def add(self, labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> None:
        """Count pixels; a label of -1 does not count."""
        counted = labels >= 0
        places = labels[counted] * self.classes + predicted[counted]
        self.counts += np.bincount(places, minlength=self.classes**2).reshape(self.counts.shape)

    @property
    def iou(self) -> list[float | None]:
        """Intersection over union of each class, 0 to 1; None for a class without true or predicted pixels."""
        right = self.counts.diagonal()
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - right
        return [int(one) / int(all_) if all_ else None for one, all_ in zip(right, union, strict=True)]

    @property
    def mean_iou(self) -> float:
        """Mean of the IoUs that are not None."""
        found = [one for one in self.iou if one is not None]
        return sum(found) / len(found)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that is right, 0 to 1."""
        return int(self.counts.trace()) / int(self.counts.sum())
