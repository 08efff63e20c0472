"""Lets a command take the name of a cache, or the first digits of its fingerprint, instead of its path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lookonce.catalogue.catalogue import open_catalogue


def cache_folder(given: Path) -> Path:
    """The folder of a cache that a user names.

    Args:
        given: a path, or a name or fingerprint of the catalogue. A path that exists comes first.

    Returns:
        The path as given, or the absolute path of the cache with that name, which is then reported on standard error.

    Raises:
        UsageError: a single word that is no folder, and no cache of the catalogue, or several.
    """
    is_path = given.is_absolute() or len(given.parts) != 1 or str(given) in (".", "..", "~")
    if is_path or os.path.lexists(given):  # Path.exists raises for names that are too long
        return given
    catalogue = open_catalogue()
    if catalogue is None:
        return given
    entry = catalogue.resolve(str(given))
    if os.environ.get("RANK", "0") == "0":
        print(f"{given}: {entry.place}, by the catalogue", file=sys.stderr, flush=True)
    return Path(entry.place)
