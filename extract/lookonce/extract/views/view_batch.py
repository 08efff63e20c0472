"""Batches of views that threads fill in place: patches lie where the teacher and the writer read them."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookonce.extract.views.view_arrays import ViewArrays, ViewMaker
from lookonce.shared.errors import UnreadableImageError
from lookonce.shared.sources import ListingEntry

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
        maker: makes the views, called by the threads.
        patch_size: side of a patch, pixels.
        patches: N, patches per view.
        threads: make the views.
        allocate: allocates the array of patches.
    """

    def __init__(
        self,
        window: Window,
        maker: ViewMaker,
        *,
        patch_size: int,
        patches: int,
        threads: Executor,
        allocate: Allocate,
    ) -> None:
        self.window, self._maker = window, maker
        images, seeds = len(window.rows), len(window.seeds)
        self._arrays = ViewArrays.around(allocate((seeds, images, patches, patch_size * patch_size * 3)))
        step = maker.images_per_call(images, seeds)
        self._futures: list[Future[list[UnreadableImageError | None]]] = [
            threads.submit(self._make, slice(start, start + step)) for start in range(0, images, step)
        ]

    def _make(self, some: slice) -> list[UnreadableImageError | None]:
        window = self.window
        return self._maker.make(window.rows[some], window.entries[some], window.seeds, self._arrays.images(some))

    def seed_views(self, position: int) -> SeedViews:
        """The views of one seed; waits until all views of the window are made.

        Args:
            position: index of the seed in ``window.seeds``.

        Raises:
            SourceError: an image is gone or was replaced.
            MachineError: a view process was killed.
        """
        problems = [problem for future in self._futures for problem in future.result()]
        window, arrays = self.window, self._arrays
        good = [index for index, problem in enumerate(problems) if problem is None]
        all_good = len(good) == len(problems)
        patches, digests, parameters, jpegs = (
            values[position] if all_good else values[position][good]
            for values in (arrays.patches, arrays.digests, arrays.parameters, arrays.jpegs)
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
