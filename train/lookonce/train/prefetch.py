"""Batches read ahead by threads, handed out in order; an error in a thread ends the run, it never hangs it."""

from __future__ import annotations

import collections
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

from lookonce.train.cached_targets import Batch, CachedTargets
from lookonce.train.sample_order import SampleOrder


def prefetched_batches(
    targets: CachedTargets, order: SampleOrder, *, first: int, last: int, threads: int
) -> Generator[Batch, None, None]:
    """Batches of steps ``first`` to ``last - 1``, in order, up to ``threads + 1`` of them read ahead.

    Reading gathers mapped memory without the GIL, so threads are enough; worker processes would copy every batch.
    """
    steps = iter(range(first, last))
    queue: collections.deque[Future[Batch]] = collections.deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="lookonce-read")
    try:
        for step in steps:
            queue.append(pool.submit(targets.batch, order.step(step)))
            if len(queue) > threads + 1:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
