"""Whole views that a cache stores: as pixels of all patches, or as JPEGs that decode to what the teacher saw."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.advice import REPAIR
from lookonce.cache.read.reader import CacheReader
from lookonce.shared.errors import CacheMismatchError, IntegrityError
from lookonce.shared.images.jpeg_view import decode_view
from lookonce.shared.patches import patchify
from lookonce.shared.views import pixel_digest
from lookonce.storage_schemas.arrays import JPEG
from lookonce.storage_schemas.recipe import Recipe


class WholeViews(Protocol):
    """Gives whole views; thread-safe."""

    def patches(self, seed: int, row: int) -> NDArray[np.uint8]:
        """All patches of one view, as ``patchify`` returns them: uint8 (patches, patch size squared * 3).

        Raises:
            CacheMismatchError: these are other pixels than the teacher saw.
            IntegrityError: an object is damaged, or the row is a hole.
        """
        ...


def stored_views(reader: CacheReader) -> WholeViews | None:
    """The whole views of a cache; None if it stores no pixels, or those of some patches."""
    if not reader.manifest.stores_whole_views:
        return None
    return JpegViews(reader) if reader.manifest.pixels == "jpeg" else PixelViews(reader)


class PixelViews:
    """Views whose pixels are stored."""

    def __init__(self, reader: CacheReader) -> None:
        self._reader = reader

    def patches(self, seed: int, row: int) -> NDArray[np.uint8]:
        """See ``WholeViews``."""
        patches: NDArray[np.uint8] = self._reader.read("pixels", [seed], [row])[0]
        return patches


class JpegViews:
    """Views that are stored as JPEG. The pixels of each are compared with their digest when it is first used.

    The bytes do not change afterwards, and neither does the decoder.
    """

    def __init__(self, reader: CacheReader) -> None:
        self._reader = reader
        self._compared = {seed: np.zeros(reader.manifest.samples, dtype=bool) for seed in reader.seeds}

    def patches(self, seed: int, row: int) -> NDArray[np.uint8]:
        """See ``WholeViews``."""
        reader, manifest = self._reader, self._reader.manifest
        try:
            patches = decoded_patches(reader.read(JPEG, [seed], [row])[0], manifest.recipe)
        except ValueError as error:
            raise IntegrityError(f"{reader.place}: the view of row {row}, seed {seed}: {error}; {REPAIR}") from error
        if not self._compared[seed][row]:
            if not np.array_equal(pixel_digest(patches), reader.read("pixel_digest", [seed], [row])[0]):
                key = str(reader.column("key", seed, range(row, row + 1))[0])
                raise CacheMismatchError(
                    f"{reader.place}: the JPEG of the view of {key!r}, seed {seed}, decodes to other pixels here than "
                    f"the teacher saw: {other_decoder(manifest.created_with)}; install that version here, or "
                    "extract again with --pixels store"
                )
            self._compared[seed][row] = True
        return patches


def decoded_patches(jpeg: bytes, recipe: Recipe) -> NDArray[np.uint8]:
    """All patches of a view that is stored as JPEG.

    Raises:
        ValueError: it is no JPEG of a view of this recipe.
    """
    return patchify(decode_view(jpeg, recipe.view_size), recipe.patch_size)


def other_decoder(versions: Mapping[str, str]) -> str:
    """Why sound bytes decode to other pixels here, for messages.

    Args:
        versions: of the libraries that made the cache.
    """
    there = versions.get("pillow", "of unknown version")
    return f"Pillow {version('pillow')} here decodes it in another way than Pillow {there}, which made the cache"
