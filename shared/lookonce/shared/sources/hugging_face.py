"""Images of a Hugging Face dataset: a folder written by ``save_to_disk``, or a dataset of the hub's cache.

A key is the number of its row in nine digits, after the name of the split if there are splits (``train/000000017``). It
does not depend on the location of the dataset, nor on rows that are appended; shuffling rows changes it.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lookonce.shared.canonical import digest_document
from lookonce.shared.errors import SourceError, UsageError
from lookonce.shared.sources.entry_table import ListingEntry
from lookonce.shared.sources.kept_listing import Watch, kept_listing
from lookonce.shared.sources.listing import Listing
from lookonce.shared.sources.listing_builder import ListingBuilder, SortedImages

ROWS = 1024
"""Rows whose sizes and labels are read at a time."""

_DIGITS = 9


@dataclass(frozen=True)
class HuggingFaceImages:
    """The image column of a dataset, and its labels.

    The image column is the only one of feature type ``Image``, or the one named ``image``. Labels are those of the
    column ``label`` (integers, names or a ``ClassLabel``), or of the only ``ClassLabel``.
    """

    dataset: str
    """Absolute path of a folder, or a name on the hub."""
    split: str | None
    """Name of the split; None if the dataset has only one."""

    @classmethod
    def named(cls, text: str) -> HuggingFaceImages:
        """The source for ``DATASET`` or ``DATASET:SPLIT``.

        >>> HuggingFaceImages.named("/data/flowers:train")
        HuggingFaceImages(dataset='/data/flowers', split='train')
        """
        whole = os.path.expanduser(text)
        folder, colon, split = whole.rpartition(":")
        if os.path.isdir(whole) or not colon:
            folder, split = whole, ""
        on_disk = os.path.isdir(folder) or folder.startswith(("/", "."))
        return cls(os.path.abspath(folder) if on_disk else folder, split or None)

    def listing(self, *, refresh: bool = False) -> Listing:
        """The images in row order with their sizes; images are not decoded.

        Raises:
            SourceError: the dataset, split or image column does not exist.
            UsageError: the library ``datasets`` is not installed.
        """
        opened = _opened(self.dataset, self.split)
        return kept_listing(
            f"hf {self.dataset}:{opened.split}", digest_document(opened.files), self._scan, refresh=refresh
        )

    def _scan(self, images: SortedImages, watch: Watch) -> ListingBuilder:
        opened = _opened(self.dataset, self.split)
        builder = ListingBuilder(images, classes=opened.classes, class_folders=False, notes=opened.notes)
        for file in opened.files:
            watch(file)
        if not len(opened.rows):
            raise SourceError(f"{self.dataset}: expected images, found a dataset without rows")
        for start in range(0, len(opened.rows), ROWS):
            for row, (size, label) in enumerate(opened.facts(start, start + ROWS), start):
                builder.add(f"{opened.prefix}{row:0{_DIGITS}}", size, label=label, offset=row)
        return builder

    def read(self, entry: ListingEntry) -> bytes:
        """The image of one row.

        Raises:
            SourceError: the row is missing, or the size of its image differs from the listing.
        """
        opened = _opened(self.dataset, self.split)
        if entry.offset >= len(opened.rows):
            raise SourceError(
                f"{entry.key}: expected {entry.byte_count} bytes, found only {len(opened.rows)} rows in "
                f"{self.dataset}; {_CHANGED}"
            )
        data = opened.image(entry.offset)
        if len(data) != entry.byte_count:
            raise SourceError(
                f"{entry.key}: expected {entry.byte_count} bytes in {self.dataset}, found {len(data)}; {_CHANGED}"
            )
        return data


_CHANGED = (
    "the dataset has changed since it was listed: restore it, or list the images again (extract-features --relist)"
)


@dataclass(frozen=True)
class _Opened:
    """A split, opened once per process; thread-safe, because it is read-only."""

    rows: Any
    """A ``datasets.Dataset`` in Arrow format with one or two columns, image and label."""
    split: str
    files: tuple[str, ...]
    classes: tuple[str, ...] | None
    notes: tuple[str, ...]

    @property
    def prefix(self) -> str:
        return f"{self.split}/" if self.split else ""

    def facts(self, start: int, stop: int) -> list[tuple[int, str | None]]:
        """Size and label of each row."""
        compute = importlib.import_module("pyarrow.compute")
        table = self.rows[start : min(stop, len(self.rows))]
        images = table.column(0)
        sizes = compute.binary_length(compute.struct_field(images, "bytes")).to_pylist()
        for row, size in enumerate(sizes):
            if size is None:  # the dataset contains the path of the image, not its bytes
                sizes[row] = os.path.getsize(_path(images[row].as_py(), start + row))
        labels = table.column(1).to_pylist() if table.num_columns > 1 else [None] * len(sizes)
        named = enumerate(zip(sizes, labels, strict=True), start)
        return [(size, self._name(label, row)) for row, (size, label) in named]

    def image(self, row: int) -> bytes:
        value = self.rows[row : row + 1].column(0)[0].as_py()
        if value is not None and value["bytes"] is not None:
            return bytes(value["bytes"])
        path = _path(value, row)
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise SourceError(
                f"{path}: expected the image of row {row}, found no readable file ({error.strerror})"
            ) from error

    def _name(self, label: Any, row: int) -> str | None:
        if label is None or label == -1:
            return None
        if self.classes is None:
            return str(label)
        if not 0 <= label < len(self.classes):
            raise SourceError(
                f"row {row}: expected a label from 0 to {len(self.classes) - 1}, as its ClassLabel has "
                f"{len(self.classes)} names, found {label}; correct it"
            )
        return self.classes[int(label)]


def _path(value: Any, row: int) -> str:
    path = value and value["path"]
    if not path or not os.path.isfile(path):
        raise SourceError(
            f"row {row}: expected an image, found {path or 'nothing'}; leave such rows out of the dataset"
        )
    return str(path)


@lru_cache(maxsize=8)
def _opened(dataset: str, split: str | None) -> _Opened:
    library = _library()
    try:
        loaded = library.load_from_disk(dataset) if os.path.isabs(dataset) else library.load_dataset(dataset)
    except Exception as error:  # of many types: missing folder, not a dataset, offline and not cached
        raise SourceError(
            f"hf:{dataset}: expected a folder written by save_to_disk, or a dataset of the hub that is cached or can "
            f"be downloaded; found: {type(error).__name__}: {error}"
        ) from error
    if isinstance(loaded, library.DatasetDict):
        if split not in loaded and (split or len(loaded) != 1):
            raise SourceError(f"hf:{dataset}: expected one of the splits {', '.join(loaded)}, as hf:{dataset}:SPLIT")
        split = split or next(iter(loaded))
        loaded = loaded[split]
    elif split is not None:
        raise SourceError(
            f"hf:{dataset}:{split}: expected a dataset with splits, found one without; leave :{split} out"
        )
    features = loaded.features
    image = _column(dataset, features, "image", library.Image)
    label, notes = _label_column(dataset, features, library)
    chosen = loaded.select_columns([image] if label is None else [image, label]).with_format("arrow")
    classes = tuple(features[label].names) if label and isinstance(features[label], library.ClassLabel) else None
    return _Opened(chosen, split or "", tuple(file["filename"] for file in loaded.cache_files), classes, notes)


def _library() -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise UsageError(
            "--images hf:...: Hugging Face datasets are read with the library datasets, which is not installed here "
            f"({error}); install it: pip install 'lookonce[hf]'"
        ) from error


def _column(dataset: str, features: Any, wanted: str, kind: type) -> str:
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if wanted in found or len(found) == 1:
        return wanted if wanted in found else found[0]
    raise SourceError(
        f"hf:{dataset}: expected one image column or one called {wanted!r}, found "
        f"{', '.join(found) or 'none among ' + ', '.join(features)}; rename_column or cast_column(..., Image()) helps"
    )


def _label_column(dataset: str, features: Any, library: Any) -> tuple[str | None, tuple[str, ...]]:
    """The label column, if there is one, and notes about columns that are not used.

    Raises:
        SourceError: the column ``label`` contains no labels.
    """
    possible = [name for name, feature in features.items() if _gives_labels(feature, library)]
    named = [name for name in possible if isinstance(features[name], library.ClassLabel)]
    if "label" in possible:
        others = [name for name in named if name != "label"]
        return "label", ((f"labels are those of the column label, not of {', '.join(others)}",) if others else ())
    if "label" in features and getattr(features["label"], "dtype", "") != "null":
        raise SourceError(
            f"hf:{dataset}: the column label contains {features['label']}, expected integers, names or a "
            "ClassLabel; convert it (cast_column), or remove it (remove_columns) to have no labels"
        )
    if len(named) == 1:
        return named[0], ()
    if not possible:
        return None, ()
    found = "several columns of classes" if named else "no column called label"
    return None, (
        (
            f"no labels are used, because there {'are' if named else 'is'} {found}; rename one of "
            f"{', '.join(named or possible)} to label (rename_column)"
        ),
    )


def _gives_labels(feature: Any, library: Any) -> bool:
    if isinstance(feature, library.ClassLabel):
        return True
    kind = feature.dtype if isinstance(feature, library.Value) else ""
    return kind in ("string", "large_string", "string_view", "bool") or kind.startswith(("int", "uint"))
