"""Images of a folder and its sub-folders; class folders give labels."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lookonce.shared.errors import SourceError
from lookonce.shared.sources.entry_table import ListingEntry
from lookonce.shared.sources.image_names import EXTENSIONS, HEAD_BYTES, begins_like_image
from lookonce.shared.sources.kept_listing import Watch, kept_listing
from lookonce.shared.sources.listing import Listing
from lookonce.shared.sources.listing_builder import ListingBuilder, SortedImages
from lookonce.shared.sources.listing_notes import by_kind

RESTORE = "restore it, or list the images again (extract-features --relist)"
"""Advice for an image that differs from the listing."""


@dataclass(frozen=True)
class ImageFolder:
    """Every image below ``root``; keys are relative POSIX paths with extension.

    Hidden files and folders (names that begin with a dot) are ignored. Links are followed, except to a folder that
    contains the link. If more images lie in sub-folders than beside them, the first part of a key is its class. A file
    without extension is an image if it starts with the bytes of one.
    """

    root: Path
    """Absolute path of the folder."""

    def listing(self, *, refresh: bool = False) -> Listing:
        """The images, sorted by key; a stored listing is used if no folder has changed since.

        Raises:
            SourceError: the folder is missing, is a file, contains no image, or contains a folder or link that
                cannot be followed.
        """
        self._require_folder()
        return kept_listing(f"folder {self.root}", "", self._scan, refresh=refresh)

    def _scan(self, images: SortedImages, watch: Watch) -> ListingBuilder:
        builder = ListingBuilder(images)
        for key, file in _walk(self.root, watch, builder.folders):
            extension = os.path.splitext(key)[1].lower()
            is_image = extension in EXTENSIONS or (not extension and _begins_like_image(file))
            status = _file_status(file) if is_image else None
            if status is None:
                builder.left_out[extension or "without extension"] += 1
            else:
                builder.add(_text(key, file), status.st_size, modified_ns=status.st_mtime_ns)
        if not len(builder):
            raise SourceError(self._nothing_found(builder.left_out))
        return builder

    def read(self, entry: ListingEntry) -> bytes:
        """The file of one entry.

        Raises:
            SourceError: the file is missing or cannot be read, or its size or modification time differs from the
                listing.
        """
        try:
            with (self.root / entry.key).open("rb") as file:
                modified_ns, data = os.fstat(file.fileno()).st_mtime_ns, file.read()
        except OSError as error:
            raise SourceError(
                f"{entry.key}: expected {entry.byte_count} bytes in {self.root}, found no readable file "
                f"({error.strerror or error}); it was there when the folder was listed: {RESTORE}"
            ) from error
        if len(data) != entry.byte_count:
            raise SourceError(
                f"{entry.key}: expected {entry.byte_count} bytes, found {len(data)}; the file in {self.root} has "
                f"changed since the folder was listed: {RESTORE}"
            )
        if entry.modified_ns not in (0, modified_ns):
            raise SourceError(
                f"{entry.key}: expected a file changed last at {_time(entry.modified_ns)}, found {_time(modified_ns)}; "
                f"the file in {self.root} was written again since the folder was listed: {RESTORE}"
            )
        return data

    def _require_folder(self) -> None:
        if self.root.is_dir():
            return
        if self.root.exists():
            archive = self.root.suffix.lower() in {".zip", ".7z", ".rar"}
            advice = "unpack it, and give the folder" if archive else "give the folder that contains it"
            raise SourceError(f"{self.root}: expected a folder of images, found a file; {advice}")
        above = next(parent for parent in self.root.parents if parent.exists())
        raise SourceError(
            f"{self.root}: expected a folder of images, found nothing there ({above} is the last part of the path "
            "that exists); check the path"
        )

    def _nothing_found(self, others: Counter[str]) -> str:
        found = f"{others.total()} other files ({by_kind(others)})" if others else "no files at all"
        known = " ".join(sorted(extension[1:] for extension in EXTENSIONS))
        return f"{self.root}: expected images ({known}), found {found}; give the folder that contains the images"


def _walk(root: Path, watch: Watch, top: set[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(relative POSIX path, directory entry) of every file below ``root`` that is not hidden, in any order.

    The names of the top-level folders are added to ``top``.
    """
    identity = os.stat(root)
    pending = [(str(root), "", frozenset({(identity.st_dev, identity.st_ino)}))]
    while pending:
        folder, prefix, above = pending.pop()
        try:
            watch(folder)
            with os.scandir(folder) as children:
                for child in children:
                    if child.name.startswith("."):
                        continue
                    if not _is_folder(child):
                        yield prefix + child.name, child
                        continue
                    status = child.stat()
                    identity_of_child = (status.st_dev, status.st_ino)
                    if identity_of_child not in above:  # otherwise a link to a parent, which would not end
                        pending.append((child.path, f"{prefix}{child.name}/", above | {identity_of_child}))
                        if not prefix:
                            top.add(child.name)
        except OSError as error:
            raise SourceError(
                f"{error.filename or folder}: cannot be listed ({error.strerror}); correct or remove it"
            ) from error


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a link to itself
        return False


def _begins_like_image(file: os.DirEntry[str]) -> bool:
    """Whether a file without extension is an image; False if it cannot be read."""
    try:
        if not file.is_file():  # opening a pipe would block
            return False
        with open(file.path, "rb", buffering=0) as opened:
            return begins_like_image(opened.read(HEAD_BYTES))
    except OSError:
        return False


def _time(nanoseconds: int) -> str:
    return f"{datetime.fromtimestamp(nanoseconds / 1e9):%Y-%m-%d %H:%M:%S.%f}"


def _file_status(file: os.DirEntry[str]) -> os.stat_result | None:
    """Status of a plain file; None for a pipe or socket, which would block a reader. Broken links are refused."""
    try:
        status = file.stat()
    except OSError as error:
        raise SourceError(
            f"{file.path}: expected an image, found a broken link ({error.strerror}); correct or remove it"
        ) from error
    return status if stat.S_ISREG(status.st_mode) else None


def _text(key: str, file: os.DirEntry[str]) -> str:
    try:
        key.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SourceError(
            f"{file.path!a}: expected a file name in UTF-8, found other bytes; rename the file"
        ) from error
    return key
