"""Image sources: folders, tars and Hugging Face datasets. A table maps the value of ``--images`` to a class.

Open ``source.py`` first: the protocol of a source. A source lists its images once (``listing.py``), sorted by key.
``listing_builder.py`` sorts them, and ``kept_listing.py`` stores a large listing in a file and uses it again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from lookonce.shared.errors import UsageError
from lookonce.shared.sources.entry_table import NO_LABEL, ListingEntry
from lookonce.shared.sources.hugging_face import HuggingFaceImages
from lookonce.shared.sources.image_folder import ImageFolder
from lookonce.shared.sources.listing import Listing
from lookonce.shared.sources.source import ImageSource
from lookonce.shared.sources.tar_shards import TarShards

__all__ = [
    "NO_LABEL",
    "HuggingFaceImages",
    "ImageFolder",
    "ImageSource",
    "Listing",
    "ListingEntry",
    "TarShards",
    "open_source",
]


def open_source(text: str) -> ImageSource:
    """The source for a value of ``--images``.

    Args:
        text: a folder of images, tars (one, or a pattern with braces or wildcards), or ``hf:DATASET[:SPLIT]``.

    Raises:
        UsageError: the kind of source is not supported, or the pattern is invalid.

    >>> open_source("/data/photos").root.as_posix()
    '/data/photos'
    >>> open_source("/data/{000..002}.tar").paths
    ('/data/000.tar', '/data/001.tar', '/data/002.tar')
    """
    if not text:
        raise UsageError(f"image source: expected one of: {_KNOWN}, found an empty name")
    refuse_url(text)
    for _, matches, opened in _SOURCES:
        if matches(text):
            return opened(text)
    raise UsageError(f"image source {text!r}: this kind of source is not supported; expected one of: {_KNOWN}")


def refuse_url(text: str) -> None:
    """Refuse a URL as image source, unless a folder has this name.

    Args:
        text: the value of ``--images``, or its ``Path`` as text (``s3:/bucket``).

    Raises:
        UsageError: it is a URL.
    """
    url = _URL.match(text)
    if url is None or os.path.isdir(text):
        return
    advice = f"give /{text[url.end() :].lstrip('/')}" if url[1].lower() == "file" else "mount it, or copy it to a disk"
    raise UsageError(
        f"--images {text}: {url[1]}: URLs are not supported: images are read from a disk ({_KNOWN}); {advice}"
    )


def _is_folder(text: str) -> bool:
    # An existing folder may have any name; otherwise schemes (hf:, s3://) and tar patterns are not folders.
    return os.path.isdir(text) or not (_names_tars(text) or _SCHEME.match(text))


def _names_tars(text: str) -> bool:
    return not _SCHEME.match(text) and re.search(r"[{}*?]|\.(tar|tgz)(\.\w+)?$", text) is not None


def _open_folder(text: str) -> ImageFolder:
    return ImageFolder(Path(text).expanduser().absolute())


_URL = re.compile(r"(?!hf:)([A-Za-z][\w+.-]+):/")  # one slash, because a Path drops the other

_SCHEME = re.compile(rf"hf:|pipe:|{_URL.pattern}")

_SOURCES: tuple[tuple[str, Callable[[str], bool], Callable[[str], ImageSource]], ...] = (
    ("a folder of images", _is_folder, _open_folder),
    ("tars such as 'shards/{000000..000099}.tar'", _names_tars, TarShards.matching),
    ("hf:DATASET[:SPLIT]", lambda text: text.startswith("hf:"), lambda text: HuggingFaceImages.named(text[3:])),
)
"""(description, whether a text names such a source, how to open it); the first match is used."""

_KNOWN = ", ".join(name for name, _, _ in _SOURCES)
