"""Work between the teacher and the disk: batches in teacher threads, batches being written, shards being committed."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from lookonce.extract.pipeline.batch_encoder import EncodedBatch
from lookonce.extract.pipeline.events import ShardCommitted, ShardEvent, ViewsDone
from lookonce.extract.pipeline.open_shard import OpenShard
from lookonce.extract.pipeline.teacher_threads import TeacherThreads
from lookonce.storage_schemas.receipt import Receipt

QUEUED_BATCHES = 2
"""Batches queued beyond one per teacher thread, so that no thread waits for the one that writes."""


class Pipeline:
    """Lets the teacher threads work ahead of the threads that write. A context manager.

    At most ``TeacherThreads.count + QUEUED_BATCHES`` batches are in the teacher threads, and at most ``streams``
    batches are being written and ``streams`` shards being committed. An error of a batch or a commit is raised where
    its result is due. On an error the pipeline starts nothing new, waits for running work, and removes everything
    that is not committed.

    Args:
        teacher_threads: of the teacher.
        view_threads: threads that make views; shut down with the pipeline.
        streams: (shard, seed) pairs that are written in parallel.
    """

    def __init__(self, teacher_threads: TeacherThreads, view_threads: ThreadPoolExecutor, streams: int) -> None:
        self._limit, self._teacher_threads = teacher_threads.count + QUEUED_BATCHES, teacher_threads.open()
        self._view_threads, self._streams = view_threads, streams
        self._shards: list[OpenShard] = []
        self._submitted: collections.deque[tuple[OpenShard, int, Future[EncodedBatch]] | OpenShard] = (
            collections.deque()
        )
        """Batches in the order of their submission; a shard alone: commit it."""
        self._writes: collections.deque[tuple[OpenShard, ViewsDone, Future[None]]] = collections.deque()
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
        """Register a shard, so that the pipeline discards it at the end; returns it."""
        self._shards.append(shard)
        return shard

    def submit(self, shard: OpenShard, seed: int, job: Callable[[], EncodedBatch]) -> None:
        """Run ``job`` in a teacher thread; its batch is appended to an open shard."""
        self._submitted.append((shard, seed, self._teacher_threads.submit(job)))

    def complete(self, shard: OpenShard) -> None:
        """Commit a shard after all batches submitted so far."""
        self._submitted.append(shard)

    def settle(self) -> Iterator[ShardEvent]:
        """Write batches until at most the allowed number is in the teacher threads; yields finished work."""
        while len(self._submitted) > self._limit:
            yield from self._settle_next()
        yield from self._finished(self._streams)

    def drain(self) -> Iterator[ShardEvent]:
        """Write and commit everything; yields work as it finishes."""
        while self._submitted:
            yield from self.advance()
        yield from self._finished(0)

    def advance(self) -> Iterator[ShardEvent]:
        """Write the oldest batch, if there is one, even below the limit; yields finished work."""
        if self._submitted:
            yield from self._settle_next()
        yield from self._finished(self._streams if self._submitted else 0)

    def _settle_next(self) -> Iterator[ViewsDone]:
        step = self._submitted.popleft()
        if isinstance(step, OpenShard):
            self._commits.append((step, step.commit()))
            return
        shard, seed, future = step
        batch = future.result()
        views = len(batch.rows) + len(batch.unreadable)
        done = ViewsDone(shard=shard.number, seed=seed, views=views, time=batch.time)
        self._writes.append((shard, done, shard.append(seed, batch)))
        while len(self._writes) > self._streams:
            yield self._await_write()

    def _await_write(self) -> ViewsDone:
        _, done, future = self._writes.popleft()
        future.result()
        return done

    def _finished(self, limit: int) -> Iterator[ShardEvent]:
        """Events of finished writes and commits; waits until at most ``limit`` of each remain."""
        while self._writes and (len(self._writes) > limit or self._writes[0][2].done()):
            yield self._await_write()
        while self._commits and (len(self._commits) > limit or all(one.done() for one in self._commits[0][1])):
            shard, futures = self._commits.popleft()
            while any(written is shard for written, _, _ in self._writes):  # views are reported before the receipt
                yield self._await_write()
            for future in futures:
                yield ShardCommitted(future.result())
            shard.discard()
            self._shards.remove(shard)
