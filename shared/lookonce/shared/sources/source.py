"""The protocol of image sources."""

from __future__ import annotations

from typing import Protocol

from lookonce.shared.sources.entry_table import ListingEntry
from lookonce.shared.sources.listing import Listing


class ImageSource(Protocol):
    """A source of images. It must be picklable, thread-safe and deterministic.

    Picklable: worker processes receive a copy and read from it. Thread-safe: many threads call ``read`` at once.
    Deterministic: the same content gives the same listing in the same order, independent of its location.
    """

    def listing(self, *, refresh: bool = False) -> Listing:
        """List the images. A large listing is stored, and used again while the source is unchanged.

        Args:
            refresh: list the source again in any case.

        Raises:
            SourceError: the source does not exist, contains no image, or contains a key twice.
        """
        ...

    def read(self, entry: ListingEntry) -> bytes:
        """The encoded image of one entry of the listing, ``entry.byte_count`` bytes long.

        Raises:
            SourceError: the image is missing, or its size differs from the listing.
        """
        ...
