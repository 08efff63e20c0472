"""Labelled images in class folders below ``train/`` and ``test/``, and their evaluation views."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.errors import SourceError
from lookonce.shared.images import decode_rgb
from lookonce.shared.sources import ImageSource, Listing, ListingEntry, open_source
from lookonce.shared.views import center_view

TRAIN, TEST = "train", "test"
SHOWN_CLASSES = 5
"""Class names that an error lists of each kind."""


@dataclass(frozen=True, kw_only=True)
class LabelledSplit:
    """The images of one split, each with its class."""

    name: str
    """``train`` or ``test``."""
    source: ImageSource
    """Where the images are read."""
    listing: Listing
    """Keys, labels and classes; every image has a label."""

    def __len__(self) -> int:
        return len(self.listing)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class number of each image in listing order, int64 (images,)."""
        return np.array([entry.label for entry in self.listing.entries], dtype=np.int64)

    def batches(self, view_size: int, batch_size: int) -> Iterator[NDArray[np.uint8]]:
        """Centre views of all images in listing order, uint8 (B, view_size, view_size, 3).

        Args:
            view_size: side of a view, pixels.
            batch_size: images a batch; the last one may be smaller.

        Raises:
            SourceError: an image cannot be read: an accuracy over the others would be another number.
        """

        def view(entry: ListingEntry) -> NDArray[np.uint8]:
            where = f"{self.name}/{entry.key}"
            return center_view(decode_rgb(self.source.read(entry), where), view_size)

        entries = self.listing.entries
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(entries), batch_size):
                yield np.stack(list(threads.map(view, entries[start : start + batch_size])))


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """A labelled data set: a part to learn from and a part to be judged by, of the same classes."""

    train: LabelledSplit
    """Images whose labels are known to the classifier."""
    test: LabelledSplit
    """Images whose labels it has to predict."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label, the same in both splits."""
        return self.train.listing.classes


def open_labelled_images(folder: Path) -> LabelledImages:
    """List the class folders of ``folder/train`` and ``folder/test``.

    Args:
        folder: holds ``train/CLASS/...`` and ``test/CLASS/...``.

    Raises:
        SourceError: a split is missing, empty or without class folders, or the splits have different classes.
    """
    train, test = (_open_split(folder, name) for name in (TRAIN, TEST))
    in_train, in_test = set(train.listing.classes), set(test.listing.classes)
    if in_train != in_test:
        raise SourceError(
            f"{folder}: expected the same classes in {TRAIN}/ and {TEST}/, found {_named(in_train - in_test)} only in "
            f"{TRAIN}/ and {_named(in_test - in_train)} only in {TEST}/; rename or add the class folders"
        )
    return LabelledImages(train=train, test=test)


def _open_split(folder: Path, name: str) -> LabelledSplit:
    if not (folder / name).is_dir():
        found = sorted(child.name for child in folder.iterdir()) if folder.is_dir() else []
        raise SourceError(
            f"{folder}: expected the folders {TRAIN}/ and {TEST}/ with class folders in each, found no {name}/ "
            f"({_named(found) if folder.is_dir() else 'no such folder'}); give the folder that holds both"
        )
    source = open_source(str(folder / name))
    listing = source.listing()
    if not listing.classes:
        loose = next(entry.key for entry in listing.entries if "/" not in entry.key)
        raise SourceError(
            f"{folder / name}: expected every image in a class folder ({name}/CLASS/image), found {loose} outside of "
            "one; move images into a folder for each class"
        )
    return LabelledSplit(name=name, source=source, listing=listing)


def _named(names: set[str] | list[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN_CLASSES]) or "nothing"
    return shown + (f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else "")
