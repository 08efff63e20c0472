"""What is under way between the teacher and the disk: batches in the lanes, being written, shards being committed."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from lookonce.extract.pipeline.batch_encoder import EncodedBatch, ThreadTimes
from lookonce.extract.pipeline.open_shard import OpenShard
from lookonce.extract.pipeline.teacher_threads import TeacherThreads
from lookonce.storage_schemas.receipt import Receipt

QUEUED_BATCHES = 2
"""Batches that are given to the lanes beyond one each, so that no lane waits for the thread that settles."""


@dataclass
class BatchProgress:
    """What one batch took; travels from workers to the driver, a few bytes."""

    views: int = 0
    """Looked at by the teacher, unreadable ones included."""
    copied: int = 0
    """Taken from an earlier cache as they are."""
    shard: int = -1
    """Whose views they are."""
    seed: int = -1
    """Of their shard's task, where they are of several."""
    time: ThreadTimes = field(default_factory=ThreadTimes)
    """Where the time of the lane that looked at it went."""
    worker: str = field(default_factory=lambda: f"{os.uname().nodename}:{os.getpid()}")
    """Who looked: node and process."""


class Pipeline:
    """Lets lanes work ahead of the threads that write. A context manager.

    What is bounded: batches under way in the lanes by ``lanes.count + AHEAD``, batches being written and shards being
    committed by ``streams`` each. Errors come out where the failed batch or commit would have been settled. Left by an
    error, it begins nothing more, waits for what runs, and removes what is not committed.

    Args:
        teacher_threads: of the teacher.
        view_threads: threads that make views; they are stopped with it.
        streams: (shard, seed) pairs that are written side by side.
    """

    def __init__(self, teacher_threads: TeacherThreads, view_threads: ThreadPoolExecutor, streams: int) -> None:
        self._limit, self._teacher_threads = teacher_threads.count + QUEUED_BATCHES, teacher_threads.open()
        self._view_threads, self._streams = view_threads, streams
        self._shards: list[OpenShard] = []
        self._under_way: collections.deque[tuple[OpenShard, int, Future[EncodedBatch]] | OpenShard] = (
            collections.deque()
        )
        self._writes: collections.deque[tuple[OpenShard, BatchProgress, Future[None]]] = collections.deque()
        self._commits: collections.deque[tuple[OpenShard, list[Future[Receipt]]]] = collections.deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pools = (self._view_threads, self._teacher_threads)
        with ExitStack() as stack:
            for shard in self._shards:
                stack.callback(shard.discard)  # last
            for pool in pools:
                stack.callback(pool.shutdown)
            for pool in pools:
                pool.shutdown(wait=False, cancel_futures=True)

    def open(self, shard: OpenShard) -> OpenShard:
        """Take charge of a shard; returns it."""
        self._shards.append(shard)
        return shard

    def submit(self, shard: OpenShard, seed: int, job: Callable[[], EncodedBatch]) -> None:
        """Let a lane make a batch of a seed, to be appended to an open shard."""
        self._under_way.append((shard, seed, self._teacher_threads.submit(job)))

    def complete(self, shard: OpenShard) -> None:
        """Commit a shard when all that was given before is appended."""
        self._under_way.append(shard)

    def settle(self) -> Iterator[BatchProgress | Receipt]:
        """Write batches until no more are under way than may be; yields what is done by now."""
        while len(self._under_way) > self._limit:
            yield from self._settle_next()
        yield from self._done(self._streams)

    def drain(self) -> Iterator[BatchProgress | Receipt]:
        """Write and commit all; yields what is done, as it is done."""
        while self._under_way:
            yield from self.advance()
        yield from self._done(0)

    def advance(self) -> Iterator[BatchProgress | Receipt]:
        """Write the oldest batch, if there is one, though there is room for more; yields what is done by now."""
        if self._under_way:
            yield from self._settle_next()
        yield from self._done(self._streams if self._under_way else 0)

    def _settle_next(self) -> Iterator[BatchProgress]:
        step = self._under_way.popleft()
        if isinstance(step, OpenShard):
            self._commits.append((step, step.commit()))
            return
        shard, seed, future = step
        batch = future.result()
        looked = len(batch.rows) + len(batch.unreadable)
        progress = BatchProgress(views=looked, shard=shard.number, seed=seed, time=batch.time)
        self._writes.append((shard, progress, shard.append(seed, batch)))
        while len(self._writes) > self._streams:
            yield self._written()

    def _written(self) -> BatchProgress:
        _, progress, future = self._writes.popleft()
        future.result()
        return progress

    def _done(self, most: int) -> Iterator[BatchProgress | Receipt]:
        """What is written by now, and the receipts of what is committed; waits until at most ``most`` are left."""
        while self._writes and (len(self._writes) > most or self._writes[0][2].done()):
            yield self._written()
        while self._commits and (len(self._commits) > most or all(one.done() for one in self._commits[0][1])):
            shard, futures = self._commits.popleft()
            while any(written is shard for written, _, _ in self._writes):  # progress comes before the receipt
                yield self._written()
            for future in futures:
                yield future.result()
            shard.discard()
            self._shards.remove(shard)
