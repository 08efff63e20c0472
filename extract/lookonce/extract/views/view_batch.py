"""Batches of views while they are being made: threads put patches where they are written from and copied from."""

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

WINDOWS_AHEAD = 2
"""Windows whose views are being made beyond the one that is asked for."""

MOST_VIEWS_AHEAD = 1024
"""Views beyond which one window is made ahead instead: each takes 150 kB at 224 pixels."""

Memory = Callable[[tuple[int, ...]], NDArray[np.uint8]]
"""From a shape to uint8 memory of that shape."""


@dataclass(frozen=True)
class Window:
    """Consecutive rows of a shard whose views are made together, for all seeds of the shard's task."""

    rows: Sequence[int]
    entries: Sequence[ListingEntry]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class UnreadableImage:
    """A row that becomes a hole, and why."""

    row: int
    problem: UnreadableImageError


@dataclass(frozen=True)
class ViewsOfSeed:
    """The views of one seed in a batch, n readable images of N patches."""

    rows: list[int]
    keys: list[str]
    patches: NDArray[np.uint8]
    """uint8 (n, N, patch bytes)."""
    digests: NDArray[np.uint8]
    """uint8 (n, 16), see ``pixel_digest``."""
    parameters: NDArray[np.int32]
    """int32 (n, 7): crop, flip and source size."""
    unreadable: list[UnreadableImage]


class ViewBatch:
    """The views of a window, each made and cut in patches by a thread; read by any number of threads.

    Args:
        window: which rows and seeds.
        producer: where views come from.
        patch_size: side of a patch, pixels.
        patches: N, patches a view.
        threads: where views are made.
        memory: where the patches are put.
    """

    def __init__(
        self,
        window: Window,
        producer: ViewProducer,
        *,
        patch_size: int,
        patches: int,
        threads: Executor,
        memory: Memory,
    ) -> None:
        self.window, self._producer, self._patch_size = window, producer, patch_size
        lead = (len(window.seeds), len(window.rows))
        self._patches = memory((*lead, patches, patch_size * patch_size * 3))
        self._digests = np.empty((*lead, pixel_digest(np.empty(0, np.uint8)).size), dtype=np.uint8)
        self._parameters = np.empty((*lead, len(VIEW_FIELDS)), dtype=np.int32)
        self._making: list[Future[UnreadableImageError | None]] = [
            threads.submit(self._make, place) for place in range(len(window.rows))
        ]

    def _make(self, place: int) -> UnreadableImageError | None:
        window = self.window
        views = self._producer.views(window.rows[place], window.entries[place], window.seeds)
        if views.pixels is None or views.parameters is None:
            return views.problem
        for position, pixels in enumerate(views.pixels):
            patches = patchify(pixels, self._patch_size, out=self._patches[position, place])
            self._digests[position, place] = pixel_digest(patches)
        self._parameters[:, place] = views.parameters
        return None

    def of_seed(self, position: int) -> ViewsOfSeed:
        """Wait for all views of the window; those of one seed.

        Args:
            position: number of the seed in the window's.

        Raises:
            SourceError: an image is gone or was replaced.
        """
        problems = [future.result() for future in self._making]
        window = self.window
        good = [place for place, problem in enumerate(problems) if problem is None]
        whole = len(good) == len(problems)
        patches, digests, parameters = (
            values[position] if whole else values[position][good]
            for values in (self._patches, self._digests, self._parameters)
        )
        return ViewsOfSeed(
            rows=[window.rows[place] for place in good],
            keys=[window.entries[place].key for place in good],
            patches=patches,
            digests=digests,
            parameters=parameters,
            unreadable=[
                UnreadableImage(row, problem)
                for row, problem in zip(window.rows, problems, strict=True)
                if problem is not None
            ],
        )


def view_batches(windows: Iterable[Window], make: Callable[[Window], ViewBatch]) -> Iterator[ViewBatch]:
    """A batch of each window, in order, while those of the next windows are being made.

    Args:
        windows: what to make views of.
        make: begins to make a batch.
    """
    queue: collections.deque[ViewBatch] = collections.deque()
    for window in windows:
        queue.append(make(window))
        ahead = WINDOWS_AHEAD if len(window.rows) * len(window.seeds) <= MOST_VIEWS_AHEAD else 1
        while len(queue) > ahead:
            yield queue.popleft()
    yield from queue


def cut_windows(
    rows: Sequence[int], entries: Sequence[ListingEntry], seeds: tuple[int, ...], batch_size: int
) -> list[Window]:
    """Windows of ``batch_size`` images.

    Their borders depend on the rows and the batch size alone (an unreadable image shortens its batch), so that the
    teacher sees the same compositions whoever runs it.
    """
    return [
        Window(list(rows[start : start + batch_size]), list(entries[start : start + batch_size]), seeds)
        for start in range(0, len(rows), batch_size)
    ]
