"""Batches of views that threads fill in place: patches lie where the teacher and the writer read them."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookonce.extract.views.image_views import ViewProducer
from lookonce.shared.errors import UnreadableImageError
from lookonce.shared.patches import patchify
from lookonce.shared.sources import ListingEntry
from lookonce.shared.views import pixel_digest
from lookonce.storage_schemas.arrays import VIEW_FIELDS

PREFETCHED_WINDOWS = 2
"""Windows whose views are made ahead of the requested one."""

MAX_PREFETCHED_VIEWS = 1024
"""Views per window above which only one window is made ahead; a view takes 150 kB at 224 pixels."""

Allocate = Callable[[tuple[int, ...]], NDArray[np.uint8]]
"""Allocates a uint8 array of a shape."""


@dataclass(frozen=True)
class Window:
    """Consecutive rows of a shard whose views are made together, for all seeds of the shard's task."""

    rows: Sequence[int]
    entries: Sequence[ListingEntry]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class UnreadableImage:
    """A row that becomes a hole, and the reason."""

    row: int
    problem: UnreadableImageError


@dataclass(frozen=True)
class SeedViews:
    """The views of one seed in a batch, n readable images of N patches."""

    rows: list[int]
    keys: list[str]
    patches: NDArray[np.uint8]
    """uint8 (n, N, patch bytes)."""
    digests: NDArray[np.uint8]
    """uint8 (n, 16), see ``pixel_digest``."""
    parameters: NDArray[np.int32]
    """int32 (n, 7): crop, flip and source size."""
    jpegs: NDArray[np.object_]
    """object (n,): the views as JPEG, bytes, if that is in their recipe, else None."""
    unreadable: list[UnreadableImage]


class ViewBatch:
    """The views of a window, made and cut into patches by threads; any number of threads can read them.

    Args:
        window: rows and seeds.
        producer: makes the views.
        patch_size: side of a patch, pixels.
        patches: N, patches per view.
        threads: make the views.
        allocate: allocates the array of patches.
    """

    def __init__(
        self,
        window: Window,
        producer: ViewProducer,
        *,
        patch_size: int,
        patches: int,
        threads: Executor,
        allocate: Allocate,
    ) -> None:
        self.window, self._producer, self._patch_size = window, producer, patch_size
        lead = (len(window.seeds), len(window.rows))
        self._patches = allocate((*lead, patches, patch_size * patch_size * 3))
        self._digests = np.empty((*lead, pixel_digest(np.empty(0, np.uint8)).size), dtype=np.uint8)
        self._parameters = np.empty((*lead, len(VIEW_FIELDS)), dtype=np.int32)
        self._jpegs = np.full(lead, None, dtype=object)
        self._futures: list[Future[UnreadableImageError | None]] = [
            threads.submit(self._make, index) for index in range(len(window.rows))
        ]

    def _make(self, index: int) -> UnreadableImageError | None:
        window = self.window
        views = self._producer.views(window.rows[index], window.entries[index], window.seeds)
        if views.pixels is None or views.parameters is None:
            return views.problem
        for position, pixels in enumerate(views.pixels):
            patches = patchify(pixels, self._patch_size, out=self._patches[position, index])
            self._digests[position, index] = pixel_digest(patches)
        self._parameters[:, index] = views.parameters
        if views.jpegs is not None:
            self._jpegs[:, index] = views.jpegs
        return None

    def seed_views(self, position: int) -> SeedViews:
        """The views of one seed; waits until all views of the window are made.

        Args:
            position: index of the seed in ``window.seeds``.

        Raises:
            SourceError: an image is gone or was replaced.
        """
        problems = [future.result() for future in self._futures]
        window = self.window
        good = [index for index, problem in enumerate(problems) if problem is None]
        all_good = len(good) == len(problems)
        patches, digests, parameters, jpegs = (
            values[position] if all_good else values[position][good]
            for values in (self._patches, self._digests, self._parameters, self._jpegs)
        )
        return SeedViews(
            rows=[window.rows[index] for index in good],
            keys=[window.entries[index].key for index in good],
            patches=patches,
            digests=digests,
            parameters=parameters,
            jpegs=jpegs,
            unreadable=[
                UnreadableImage(row, problem)
                for row, problem in zip(window.rows, problems, strict=True)
                if problem is not None
            ],
        )


def view_batches(windows: Iterable[Window], make: Callable[[Window], ViewBatch]) -> Iterator[ViewBatch]:
    """The batch of each window, in order, while the next ones are made.

    Args:
        windows: rows and seeds of each batch.
        make: starts to make a batch.
    """
    queue: collections.deque[ViewBatch] = collections.deque()
    for window in windows:
        queue.append(make(window))
        ahead = PREFETCHED_WINDOWS if len(window.rows) * len(window.seeds) <= MAX_PREFETCHED_VIEWS else 1
        while len(queue) > ahead:
            yield queue.popleft()
    yield from queue


def split_windows(
    rows: Sequence[int], entries: Sequence[ListingEntry], seeds: tuple[int, ...], batch_size: int
) -> list[Window]:
    """Windows of ``batch_size`` images.

    Their borders depend only on the rows and the batch size (an unreadable image shortens its batch), so every executor
    gives the teacher the same batches.
    """
    return [
        Window(list(rows[start : start + batch_size]), list(entries[start : start + batch_size]), seeds)
        for start in range(0, len(rows), batch_size)
    ]
