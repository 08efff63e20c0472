"""Labelled images in class folders below ``train/`` and ``test/``, and their evaluation views."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookonce.shared.errors import SourceError
from lookonce.shared.images.decode import decoded_rgb
from lookonce.shared.sources import NO_LABEL, ImageSource, Listing, open_source, refuse_url
from lookonce.shared.views import ViewRecipe, apply_view, center_view, draw_view

TRAIN, TEST = "train", "test"
SHOWN_CLASSES = 5
"""Most class names that an error lists."""


@dataclass(frozen=True, kw_only=True)
class LabelledSplit:
    """The images of one split, each with its class."""

    name: str
    """``train`` or ``test``."""
    source: ImageSource
    """Reads the images."""
    listing: Listing
    """Keys, labels and classes; every image has a label."""

    def __len__(self) -> int:
        return len(self.listing)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class number of each image in listing order, int64 (images,)."""
        return np.array([entry.label for entry in self.listing.entries], dtype=np.int64)

    def part(self, start: int, stop: int) -> LabelledSplit:
        """The images from position ``start`` of the listing up to ``stop``."""
        entries = self.listing.entries[start:stop]
        return replace(self, listing=Listing(entries, self.listing.classes, self.listing.stored_at))

    def image(self, row: int) -> AbstractContextManager[Image.Image]:
        """Context with one image, upright, mode RGB.

        Raises:
            SourceError: it cannot be read; it is not left out, because that would change the accuracy.
        """
        entry = self.listing.entries[row]
        return decoded_rgb(self.source.read(entry), f"{self.name}/{entry.key}")

    def batches(self, view_size: int, batch_size: int) -> Iterator[NDArray[np.uint8]]:
        """Centre views of all images in listing order, uint8 (B, view_size, view_size, 3).

        Args:
            view_size: side of a view, pixels.
            batch_size: images per batch; the last batch may be smaller.

        Raises:
            SourceError: an image cannot be read.
        """

        def view(row: int) -> NDArray[np.uint8]:
            with self.image(row) as image:
                return center_view(image, view_size)

        return _ahead(view, range(len(self)), batch_size)

    def drawn_batches(
        self, rows: Sequence[int], recipe: ViewRecipe, batch_size: int, *, purpose: str, seed: int
    ) -> Iterator[NDArray[np.uint8]]:
        """Random views of some images, functions of purpose, seed and key: uint8 (B, recipe.size, recipe.size, 3).

        Args:
            rows: positions in the listing.
            recipe: crop and flip.
            batch_size: images per batch; the last batch may be smaller.
            purpose: part of the random seed, so that other uses draw other views.
            seed: seed of the views.

        Raises:
            SourceError: an image cannot be read.
        """

        def view(row: int) -> NDArray[np.uint8]:
            key = f"{purpose}\x1f{self.listing.entries[row].key}"
            with self.image(row) as image:
                drawn = draw_view(recipe, key=key, seed=seed, source_height=image.height, source_width=image.width)
                return apply_view(image, drawn, recipe.size)

        return _ahead(view, rows, batch_size)


def _ahead(
    view: Callable[[int], NDArray[np.uint8]], rows: Sequence[int], batch_size: int
) -> Iterator[NDArray[np.uint8]]:
    """Views in batches, made by threads; the next batch is prepared while one is used."""
    pending: deque[Iterator[NDArray[np.uint8]]] = deque()
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(rows), batch_size):
            pending.append(threads.map(view, rows[start : start + batch_size]))
            if len(pending) > 1:
                yield np.stack(list(pending.popleft()))
        while pending:
            yield np.stack(list(pending.popleft()))


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """A labelled data set: training and test images of the same classes."""

    folder: Path
    """Folder that contains ``train/`` and ``test/``."""
    train: LabelledSplit
    """Images whose labels the classifier learns from."""
    test: LabelledSplit
    """Images whose labels it predicts."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label, the same in both splits."""
        return self.train.listing.classes

    @property
    def notes(self) -> list[str]:
        """What the user should know of the listings: files left out, classes without an image."""
        return [
            f"{self.folder / split.name}: {note}" for split in (self.train, self.test) for note in split.listing.notes
        ]

    def document(self) -> dict[str, Any]:
        """JSON-compatible: the folder, the classes and a digest of each listing."""
        return {
            "folder": str(self.folder),
            "classes": list(self.classes),
            **{split.name: split.listing.digest for split in (self.train, self.test)},
        }


def open_labelled_images(folder: Path) -> LabelledImages:
    """List the class folders of ``folder/train`` and ``folder/test``.

    Args:
        folder: contains ``train/CLASS/...`` and ``test/CLASS/...``.

    Raises:
        SourceError: a split is missing, empty or without class folders, or the splits have different classes.
        UsageError: a URL.
    """
    require_splits(folder)
    train, test = (_open_split(folder, name) for name in (TRAIN, TEST))
    in_train, in_test = set(train.listing.classes), set(test.listing.classes)
    if in_train != in_test:
        raise SourceError(
            f"{folder}: expected the same classes in {TRAIN}/ and {TEST}/, found {_named(in_train - in_test)} only in "
            f"{TRAIN}/ and {_named(in_test - in_train)} only in {TEST}/; rename or add the class folders"
        )
    return LabelledImages(folder=folder, train=train, test=test)


def require_splits(folder: Path) -> None:
    """Refuse a folder without ``train/`` or ``test/``; their content is not checked.

    Raises:
        SourceError: one is missing; the message lists what the folder contains.
        UsageError: a URL.
    """
    refuse_url(str(folder))
    for name in (TRAIN, TEST):
        if not (folder / name).is_dir():
            found = sorted(child.name for child in folder.iterdir()) if folder.is_dir() else []
            raise SourceError(
                f"{folder}: expected the folders {TRAIN}/ and {TEST}/ with class folders in each, found no {name}/ "
                f"({_named(found) if folder.is_dir() else 'no such folder'}); give the folder that contains both"
            )


def _open_split(folder: Path, name: str) -> LabelledSplit:
    source = open_source(str(folder / name))
    listing = source.listing()
    if not listing.classes or (listing.labels == NO_LABEL).any():
        loose = next(entry.key for entry in listing.entries if entry.label == NO_LABEL)
        raise SourceError(
            f"{folder / name}: expected every image in a class folder ({name}/CLASS/image), found {loose} outside of "
            "one; move images into a folder for each class"
        )
    return LabelledSplit(name=name, source=source, listing=listing)


def _named(names: set[str] | list[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN_CLASSES]) or "nothing"
    return shown + (f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else "")
