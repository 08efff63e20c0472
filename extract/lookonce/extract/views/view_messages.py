"""The messages between a view process and the process that started it.

Frequent ones are tuples of plain values: pickling dataclasses and arrays takes several times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lookonce.extract.views.image_views import ViewProducer
from lookonce.shared.errors import UnreadableImageError
from lookonce.shared.sources import ListingEntry


@dataclass(frozen=True)
class Setup:
    """The first message to a view process."""

    producer: ViewProducer
    patch_size: int
    """Side of a patch, pixels."""
    room: int
    """Most bytes that decoding an image may take there."""


class Request(NamedTuple):
    """Images whose views are wanted."""

    rows: Sequence[int]
    entries: Sequence[ListingEntry]
    seeds: Sequence[int]
    shape: tuple[int, ...]
    """Of the patches, at the start of the shared memory: (seeds, images, N, patch bytes)."""


class Made(NamedTuple):
    """The answer to a request. The patches lie in the shared memory; all else is the content of ``ViewArrays``."""

    problems: list[UnreadableImageError | None]
    left: list[int]
    """Places of the images that the parent has to make: they need more memory, or there was an unexpected error."""
    digests: bytes
    parameters: bytes
    jpegs: list[list[bytes | None]] | None
    """By seed and image; None if there are none."""


@dataclass(frozen=True)
class NotSetUp:
    """The answer of a process that cannot make views at all."""

    reason: str
