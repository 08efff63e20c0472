"""Which objects of caches at URLs a run reads at which step, and the room that they need."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from lookonce.cache.read.remote_caches import ObjectUse
from lookonce.shared.errors import StorageError, UsageError
from lookonce.shared.printing import bytes_text
from lookonce.train.data.caches.joined_caches import JoinedCaches
from lookonce.train.data.sample_order import SampleOrder

READ_AHEAD = 2
"""Steps that are read ahead beside one for each reading thread."""


@contextlib.contextmanager
def fetched_ahead(
    caches: JoinedCaches, arrays: Sequence[Sequence[str]], order: SampleOrder, *, first: int, last: int
) -> Generator[Callable[[int, int], None], None, None]:
    """Inside, the objects of some steps are fetched ahead; caches in folders have none.

    Args:
        caches: the caches.
        arrays: names of the arrays of each cache that are read.
        order: samples of each step.
        first: first step.
        last: step after the last one.

    Yields:
        A function that is told which steps are being read: the first that is not complete, the last that has begun.
    """
    if caches.remote is None:
        yield lambda oldest, newest: None
        return
    horizon = -(-order.samples_per_epoch // order.batch_size)
    ahead = caches.remote.ahead(object_uses(caches, arrays, order, first=first, last=last), horizon)
    try:
        yield ahead.advance
    finally:
        ahead.close()


def object_uses(
    caches: JoinedCaches, arrays: Sequence[Sequence[str]], order: SampleOrder, *, first: int, last: int
) -> Iterator[ObjectUse]:
    """The objects of caches at URLs that some steps read, in the order of their first steps; arguments as above."""
    epochs = range(first * order.batch_size // order.samples_per_epoch, order.epochs)
    for epoch in epochs:
        uses = [use for use in uses_of_epoch(caches, arrays, order, epoch) if use.last >= first]
        for use in sorted(uses, key=lambda use: use.first):
            if use.first >= last:
                return
            yield use


def uses_of_epoch(
    caches: JoinedCaches, arrays: Sequence[Sequence[str]], order: SampleOrder, epoch: int
) -> Iterator[ObjectUse]:
    """The objects of one epoch, in no particular order; arguments as above, and the 0-based epoch."""
    rows, steps = order.epoch(epoch)
    seed = order.seed_of(epoch)
    for number, reader in enumerate(caches.readers):
        if not caches.is_remote(number):
            continue
        manifest = reader.manifest
        shards = caches.rows_in(number, rows) // manifest.shard_size
        first, last = (np.full(manifest.shard_count, -1, dtype=np.int64) for _ in range(2))
        first[shards[::-1]], last[shards] = steps[::-1], steps  # of equal indices, the last one stays
        for shard in np.flatnonzero(first >= 0).tolist():
            yield ObjectUse(
                files=reader.files,
                objects=reader.objects(arrays[number], seed, shard),
                first=int(first[shard]),
                last=int(last[shard]),
                close=partial(reader.close_objects, arrays[number], seed, shard),
            )


def require_room(caches: JoinedCaches, arrays: Sequence[Sequence[str]], order: SampleOrder, *, threads: int) -> None:
    """Say what a run needs in the folder of fetched objects, and refuse one that does not fit.

    Args:
        caches: the caches.
        arrays: names of the arrays of each cache that are read.
        order: samples of each step.
        threads: reading threads.

    Raises:
        UsageError: ``--cache-limit`` is below what the order needs at the same time.
        StorageError: the disk has too little room for that.
    """
    remote = caches.remote
    if remote is None:
        return
    epochs = range(min(order.epochs, len(caches.seeds)))
    objects = {
        stored.digest: stored
        for epoch in epochs
        for number, reader in enumerate(caches.readers)
        if caches.is_remote(number)
        for shard in range(reader.manifest.shard_count)
        for stored in reader.objects(arrays[number], order.seed_of(epoch), shard)
    }
    whole, room = sum(stored.bytes for stored in objects.values()), remote.room
    there = remote.bytes_there([*objects.values()])
    if os.environ.get("RANK", "0") == "0" and not caches.room_told:
        print(
            f"{', '.join(caches.urls)}: this run reads {bytes_text(whole)}, of which {remote.folder} has "
            f"{bytes_text(there)}; {remote.room_text}",
            file=sys.stderr,
            flush=True,
        )
    caches.room_told = True
    if whole <= room:
        return
    kind = UsageError if remote.room_text.startswith("--cache-limit") else StorageError
    if order.window is None:
        raise kind(
            f"--shuffle global reads from all shards in every step, so that all {bytes_text(whole)} must lie in "
            f"{remote.folder}, and {remote.room_text}: give --shuffle block, which needs a few shards at a time, or "
            "give more room with --cache-limit or --cache-dir"
        )
    some = range(min(2, order.epochs))
    uses = (use for epoch in some for use in uses_of_epoch(caches, arrays, order, epoch))
    window = most_at_once(uses, threads + READ_AHEAD)
    if window > room:
        raise kind(
            f"--shuffle-shards {order.window.shards} needs {bytes_text(window)} in {remote.folder} at the same time, "
            f"and {remote.room_text}: give fewer --shuffle-shards, or more room with --cache-limit or --cache-dir"
        )


def most_at_once(uses: Iterable[ObjectUse], ahead: int) -> int:
    """Most bytes that are needed at the same time.

    Args:
        uses: objects with their first and last steps.
        ahead: steps that are read beside the oldest one.
    """
    changes: dict[int, int] = {}
    for use in uses:
        for step, count in ((use.first - ahead, use.bytes), (use.last + 1, -use.bytes)):
            changes[step] = changes.get(step, 0) + count
    return max(itertools.accumulate(changes[step] for step in sorted(changes)), default=0)
