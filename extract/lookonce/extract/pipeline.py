"""What is under way between the teacher and the disk: batches in the lanes, shards being committed; all in order."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType

from lookonce.extract.batch_encoder import EncodedBatch, LaneTime
from lookonce.extract.lanes import Lanes
from lookonce.extract.open_shard import OpenShard
from lookonce.storage_schemas.receipt import Receipt

AHEAD = 2
"""Batches that are given to the lanes beyond one each, so that none waits for the thread that writes."""

COMMITS = 1
"""Shards that may be on their way to the disk while the next one is appended to."""


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
    time: LaneTime = field(default_factory=LaneTime)
    """Where the time of the lane that looked at it went."""
    worker: str = field(default_factory=lambda: f"{os.uname().nodename}:{os.getpid()}")
    """Who looked: node and process."""


class Pipeline:
    """Lets lanes work ahead of the thread that appends, and commits behind it. A context manager.

    What is bounded: batches under way by ``lanes.count + AHEAD``, shards being committed by ``COMMITS``. Errors come
    out where the failed batch or commit would have been settled. Left by an error, it begins nothing more, waits for
    what runs, and removes what is not committed.

    Args:
        lanes: of the teacher.
        makers: threads that make views; they are stopped with it.
    """

    def __init__(self, lanes: Lanes, makers: ThreadPoolExecutor) -> None:
        self._limit, self._lanes = lanes.count + AHEAD, lanes.open()
        self._makers, self._committer = makers, ThreadPoolExecutor(1, thread_name_prefix="lookonce-commit")
        self._shards: list[OpenShard] = []
        self._under_way: collections.deque[tuple[OpenShard, int, Future[EncodedBatch]] | OpenShard] = (
            collections.deque()
        )
        self._commits: collections.deque[tuple[OpenShard, Future[list[Receipt]]]] = collections.deque()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pools = (self._makers, self._lanes, self._committer)
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

    def look(self, shard: OpenShard, seed: int, job: Callable[[], EncodedBatch]) -> None:
        """Let a lane make a batch of a seed, to be appended to an open shard."""
        self._under_way.append((shard, seed, self._lanes.submit(job)))

    def complete(self, shard: OpenShard) -> None:
        """Commit a shard when all that was given before is appended."""
        self._under_way.append(shard)

    def settle(self) -> Iterator[BatchProgress | Receipt]:
        """Append batches until no more are under way than may be; yields what is done by now."""
        while len(self._under_way) > self._limit:
            yield from self._settle_next()
        yield from self._committed(COMMITS)

    def drain(self) -> Iterator[BatchProgress | Receipt]:
        """Append and commit all; yields what is done, as it is done."""
        while self._under_way:
            yield from self.advance()
        yield from self._committed(0)

    def advance(self) -> Iterator[BatchProgress | Receipt]:
        """Append the oldest batch, if there is one, though there is room for more; yields what is done by now."""
        if self._under_way:
            yield from self._settle_next()
        yield from self._committed(COMMITS if self._under_way else 0)

    def _settle_next(self) -> Iterator[BatchProgress]:
        step = self._under_way.popleft()
        if isinstance(step, OpenShard):
            self._commits.append((step, self._committer.submit(step.commit)))
            return
        shard, seed, future = step
        batch = future.result()
        shard.append(seed, batch)
        looked = len(batch.rows) + len(batch.problems)
        yield BatchProgress(views=looked, shard=shard.number, seed=seed, time=batch.time)

    def _committed(self, most: int) -> Iterator[Receipt]:
        while self._commits and (len(self._commits) > most or self._commits[0][1].done()):
            shard, future = self._commits.popleft()
            yield from future.result()
            self._shards.remove(shard)
