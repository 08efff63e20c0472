"""Images with their masks, paired by name, and the windows that a model sees of them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookonce.shared.errors import SourceError
from lookonce.shared.images.decode import decoded_rgb
from lookonce.shared.sources import ImageFolder, Listing, ListingEntry
from lookonce.shared.views import LONGEST_STRIP
from lookonce.train.evaluation.segmentation.class_mask import read_class_mask
from lookonce.train.evaluation.segmentation.segment_config import Windows

AHEAD = 8
"""Images that are prepared while another one is used."""

OVERLAP = 1 / 3
"""Least share of a window that overlaps with the next one."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class MaskedImage:
    """One image as the model sees it, with its mask."""

    row: int
    """Position in the split."""
    mask: NDArray[np.uint16]
    """Class indices of the pixels that the windows cover, (height, width)."""
    corners: list[tuple[int, int]]
    """Top and left of each window in the mask, pixels."""
    side: int
    """Side of the windows in the mask, pixels."""
    views: NDArray[np.uint8]
    """The windows resized for the model, (windows, view size, view size, 3)."""

    def window_mask(self, window: int) -> NDArray[np.uint16]:
        """The mask of one window, (side, side)."""
        top, left = self.corners[window]
        return self.mask[top : top + self.side, left : left + self.side]


@dataclass(frozen=True, kw_only=True)
class MaskedSplit:
    """Images and masks of one split."""

    name: str
    """``train`` or ``test``."""
    images: ImageFolder
    masks: ImageFolder
    pairs: Sequence[tuple[ListingEntry, ListingEntry]]
    """Image and mask, sorted by the key of the image."""
    listings: tuple[Listing, Listing]
    """Of the images and of the masks."""

    def __len__(self) -> int:
        return len(self.pairs)

    def mask(self, row: int) -> NDArray[np.uint16]:
        """Class indices of one mask, uint16 (height, width).

        Raises:
            SourceError: it cannot be read, or is not a mask.
        """
        entry = self.pairs[row][1]
        return read_class_mask(self.masks.read(entry), str(self.masks.root / entry.key))

    def masks_in_order(self) -> Iterator[NDArray[np.uint16]]:
        """All masks, read ahead by threads.

        Raises:
            SourceError: see ``mask``.
        """
        return _ahead(self.mask, range(len(self)))

    def image(self, row: int, view_size: int, windows: Windows) -> MaskedImage:
        """One image, cut into windows, with its mask.

        Raises:
            SourceError: image or mask cannot be read, their sizes differ, or the image is too long for windows.
        """
        entry = self.pairs[row][0]
        mask, where = self.mask(row), self.images.root / entry.key
        with decoded_rgb(self.images.read(entry), str(where)) as image:
            width, height = image.size
            if mask.shape != (height, width):
                raise SourceError(
                    f"{self.masks.root / self.pairs[row][1].key}: expected a mask of the size of its image {where}, "
                    f"{width} x {height} pixels (width x height), found {mask.shape[1]} x {mask.shape[0]}; make the "
                    "mask from this image, or resize it yourself without mixing classes"
                )
            side = min(width, height)
            if windows == "slide" and max(width, height) > LONGEST_STRIP * side:
                raise SourceError(
                    f"{where}: {width} x {height} pixels (width x height) are longer than {LONGEST_STRIP} windows; "
                    "remove the image and its mask, or give --windows crop"
                )
            corners = window_corners(height, width, windows)
            boxes = [(left, top, left + side, top + side) for top, left in corners]
            views = np.stack(
                [np.asarray(image.resize((view_size, view_size), Image.Resampling.BICUBIC, box)) for box in boxes]
            )
        if windows == "crop":
            ((top, left),) = corners
            mask, corners = mask[top : top + side, left : left + side], [(0, 0)]
        return MaskedImage(row=row, mask=mask, corners=corners, side=side, views=views)

    def batches(
        self, rows: Sequence[int], view_size: int, windows: Windows, batch_size: int
    ) -> Iterator[list[MaskedImage]]:
        """Some images in order, as many at a time as have ``batch_size`` windows, and at least one.

        Raises:
            SourceError: see ``image``.
        """
        batch: list[MaskedImage] = []
        for image in _ahead(lambda row: self.image(row, view_size, windows), rows):
            if batch and sum(len(one.views) for one in batch) + len(image.views) > batch_size:
                yield batch
                batch = []
            batch.append(image)
        if batch:
            yield batch

    @property
    def notes(self) -> list[str]:
        """What the user should know of the listings: files left out."""
        folders = (self.images.root, self.masks.root)
        return [
            f"{folder}: {note}"
            for folder, listing in zip(folders, self.listings, strict=True)
            for note in listing.notes
            if note.startswith("left out")
        ]

    def document(self) -> dict[str, Any]:
        """JSON-compatible: folders and digests of the listings."""
        return {
            "images": str(self.images.root),
            "masks": str(self.masks.root),
            "images_digest": self.listings[0].digest,
            "masks_digest": self.listings[1].digest,
        }


def window_corners(height: int, width: int, windows: Windows) -> list[tuple[int, int]]:
    """Top and left of each window, a square of the image's shorter side.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        windows: ``slide``: as few as overlap by a third at least, evenly spaced; ``crop``: the central one.

    >>> window_corners(200, 300, "slide"), window_corners(200, 300, "crop"), window_corners(5, 5, "slide")
    ([(0, 0), (0, 100)], [(0, 50)], [(0, 0)])
    """
    side, rest = min(height, width), abs(height - width)
    steps = math.ceil(rest / max(1.0, side * (1 - OVERLAP)))
    starts = [rest // 2] if windows == "crop" else [round(rest * step / max(1, steps)) for step in range(steps + 1)]
    return [(0, start) if width >= height else (start, 0) for start in starts]


def open_masked_images(name: str, images: Path, masks: Path) -> MaskedSplit:
    """Pair the images of a folder with the masks of another: the same path below it, except for the extension.

    Args:
        name: of the split, for messages.
        images: folder of images.
        masks: folder of PNG masks.

    Raises:
        SourceError: a folder is missing or empty, an image has no mask or a mask no image, or two files share a name.
    """
    folders = [ImageFolder(folder.expanduser().absolute()) for folder in (images, masks)]
    listings = [folder.listing() for folder in folders]
    by_stem = [_by_stem(listing, folder.root) for listing, folder in zip(listings, folders, strict=True)]
    for found, other, what, article, missing in ((0, 1, "image", "a", "mask"), (1, 0, "mask", "an", "image")):
        lonely = sorted(by_stem[found].keys() - by_stem[other].keys())
        if lonely:
            raise SourceError(
                f"{folders[found].root / by_stem[found][lonely[0]].key}: expected {article} {missing} of the same name "
                f"in {folders[other].root}, found none ({len(lonely)} of {len(listings[found])} {what}s have no "
                f"{missing}); add the {missing}, or remove the {what}"
            )
    return MaskedSplit(
        name=name,
        images=folders[0],
        masks=folders[1],
        pairs=[(by_stem[0][stem], by_stem[1][stem]) for stem in sorted(by_stem[0])],
        listings=(listings[0], listings[1]),
    )


def _by_stem(listing: Listing, root: Path) -> dict[str, ListingEntry]:
    found: dict[str, ListingEntry] = {}
    for entry in listing.entries:
        stem = PurePosixPath(entry.key).with_suffix("").as_posix()
        if stem in found:
            raise SourceError(
                f"{root}: expected one file of each name, found {found[stem].key} and {entry.key}; images and masks "
                "are paired by their names without extension: rename or remove one"
            )
        found[stem] = entry
    return found


def _ahead(work: Callable[[int], T], rows: Sequence[int]) -> Iterator[T]:
    """The work of all rows in order, done ahead by threads."""
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor() as threads:
        try:
            for row in rows:
                pending.append(threads.submit(work, row))
                if len(pending) > AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
