"""Image sources: one file each, one table from what the user types to the class that reads it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from lookonce.shared.errors import UsageError
from lookonce.shared.sources.entry_table import NO_LABEL, ListingEntry
from lookonce.shared.sources.image_folder import ImageFolder
from lookonce.shared.sources.listing import Listing
from lookonce.shared.sources.source import ImageSource

__all__ = ["NO_LABEL", "ImageFolder", "ImageSource", "Listing", "ListingEntry", "open_source"]


def open_source(text: str) -> ImageSource:
    """The source that a user named, e.g. on the command line.

    Args:
        text: a folder of images.

    Raises:
        UsageError: a kind of source that is not supported.

    >>> open_source("/data/photos").root.as_posix()
    '/data/photos'
    """
    if not text:
        raise UsageError(f"image source: expected one of: {_KNOWN}, found an empty name")
    for _, matches, opened in _SOURCES:
        if matches(text):
            return opened(text)
    raise UsageError(
        f"image source {text!r}: this kind of source is not supported yet; expected one of: {_KNOWN} (unpack or "
        "download the images into a folder)"
    )


def _is_folder(text: str) -> bool:
    # An existing folder is one whatever its name; otherwise schemes (hf:, s3://) and tar patterns are not folders.
    tar_pattern = re.search(r"[{}*]|\.(tar|tgz)(\.\w+)?$", text)
    return os.path.isdir(text) or not (tar_pattern or re.match(r"hf:|[A-Za-z][\w+.-]*://", text))


def _open_folder(text: str) -> ImageFolder:
    return ImageFolder(Path(text).expanduser().absolute())


_SOURCES: tuple[tuple[str, Callable[[str], bool], Callable[[str], ImageSource]], ...] = (
    ("a folder of images", _is_folder, _open_folder),
)
"""(what it is, whether a text names one, how to open it), the first match wins."""

_KNOWN = ", ".join(name for name, _, _ in _SOURCES)
