"""What every image source promises."""

from __future__ import annotations

from typing import Protocol

from lookonce.shared.sources.entry_table import ListingEntry
from lookonce.shared.sources.listing import Listing


class ImageSource(Protocol):
    """Where images come from. Sources must be picklable, thread-safe and deterministic.

    Picklable: a source travels to worker processes, which read from it there. Thread-safe: ``read`` is called by many
    threads at once. Deterministic: the same content gives the same listing, in the same order, wherever it lies.
    """

    def listing(self, *, refresh: bool = False) -> Listing:
        """List the images; a large listing is stored and used again while the source looks unchanged.

        Args:
            refresh: look at the whole source in any case.

        Raises:
            SourceError: there is no such source, it holds no image, or a key comes twice in it.
        """
        ...

    def read(self, entry: ListingEntry) -> bytes:
        """The encoded image of one entry of the listing, ``entry.byte_count`` bytes long.

        Raises:
            SourceError: the image is gone or has another size than it was listed with.
        """
        ...
