"""Picture formats, chosen by the suffix of the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from lookonce.shared.errors import UsageError
from lookonce.shared.files.atomic import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "jpg", "jpeg", "webp", "svg", "pdf")
"""Suffixes of pictures without the dot; letter case does not matter."""

_DPI = 150


def picture_format(file: Path, flag: str) -> str:
    """The format of a picture: its suffix in lower case, without the dot.

    Args:
        file: file of the picture.
        flag: flag that names the file, for the message.

    Raises:
        UsageError: the suffix is missing or unknown.

    >>> picture_format(Path("views.SVG"), "--picture")
    'svg'
    """
    suffix = file.suffix.removeprefix(".").lower()
    if suffix not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise UsageError(f"{flag} {file}: expected a name that ends in one of {known}")
    return suffix


def write_picture(figure: Figure, file: Path) -> None:
    """Write a figure by rename in the format of the file's suffix; pixel formats have 150 pixels per inch.

    Raises:
        UsageError: see ``picture_format``.
        StorageError: the file cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format=picture_format(file, "picture"), dpi=_DPI)
    with atomic_file(file) as handle:
        handle.write(buffer.getvalue())
