"""Batches read ahead by threads, handed out in order; an error in a thread ends the run, it never hangs it."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

from lookonce.shared.errors import CacheError
from lookonce.train.cached_targets import Batch, CachedTargets
from lookonce.train.sample_order import SampleOrder


def prefetched_batches(
    targets: CachedTargets, order: SampleOrder, *, first: int, last: int, threads: int
) -> Generator[Batch, None, None]:
    """Batches of steps ``first`` to ``last - 1``, in order, up to ``threads + 1`` of them read ahead.

    The batch after each is announced to the reader before it is read, which matters on cold disks only. Reading gathers
    mapped memory without the GIL, so threads are enough; worker processes would copy every batch.
    """
    steps = iter(range(first, last))
    queue: collections.deque[Future[Batch]] = collections.deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="lookonce-read")
    try:
        for step in steps:
            ahead = [step, step + 1] if step == first else [step + 1]
            queue.append(pool.submit(_read, targets, order, step, [later for later in ahead if later < last]))
            if len(queue) > threads + 1:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read(targets: CachedTargets, order: SampleOrder, step: int, ahead: list[int]) -> Batch:
    for later in ahead:
        with contextlib.suppress(CacheError):  # a damaged object ends the run when its batch is read
            targets.announce(order.step(later))
    return targets.batch(order.step(step))
