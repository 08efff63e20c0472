"""Threads read batches ahead and yield them in order; an error in a thread ends the run and never hangs it."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from lookonce.shared.errors import CacheError, Interrupted, StorageError
from lookonce.shared.stopping import wait_for, waiting
from lookonce.train.data.batch import Batch
from lookonce.train.data.batch_reader import BatchReader
from lookonce.train.data.caches.objects_ahead import fetched_ahead
from lookonce.train.data.input_watch import InputWatch
from lookonce.train.data.sample_order import SampleOrder, batch_parts

UNTHREADED_PATIENCE = 60.0
"""Seconds after a signal within which a batch that is read without threads must be complete."""


def prefetched_batches(
    reader: BatchReader,
    order: SampleOrder,
    *,
    first: int,
    last: int,
    threads: int,
    parts: int = 1,
    mine: Sequence[int] = (0,),
    watch: InputWatch | None = None,
) -> Generator[Batch, None, None]:
    """Batches of steps ``first`` to ``last - 1``, in order, up to ``threads + 1`` of them read ahead.

    Each step's global batch is split into ``parts``, and those numbered ``mine`` are yielded. The batch after the one
    that is read is announced to the kernel, which matters on cold disks only. Reading gathers mapped memory without
    the GIL, so threads are enough; worker processes would copy every batch.

    Args:
        reader: reads one part of a batch.
        order: samples of each step.
        first: first step.
        last: step after the last one.
        threads: reading threads; 0 reads each batch when it is asked for.
        parts: parts of a global batch, over all processes and forward passes.
        mine: numbers of this process's parts.
        watch: measures the cost of reading.

    Raises:
        LookonceError: as ``BatchReader.batch``.
    """

    def read(step: int, number: int) -> Batch:
        samples = order.step(step)
        part = batch_parts(len(samples.rows), parts)[number]
        if number == mine[0]:
            for later in [step, step + 1] if step == first else [step + 1]:
                if later < last:
                    announce(later)
        with contextlib.nullcontext() if watch is None else watch.reading(part.stop - part.start):
            return reader.batch(samples, part)

    def announce(step: int) -> None:
        samples = order.step(step)
        for number in mine:
            with contextlib.suppress(CacheError, StorageError, Interrupted):  # raised when the batch is read
                reader.announce(samples.part(batch_parts(len(samples.rows), parts)[number]))

    if threads == 0:
        with fetched_ahead(reader.caches, reader.arrays, order, first=first, last=last) as advance:
            for step in range(first, last):
                advance(step, step)
                for number in mine:
                    with waiting(UNTHREADED_PATIENCE):
                        batch = read(step, number)
                    yield batch
        return
    queue: collections.deque[tuple[int, Future[Batch]]] = collections.deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="lookonce-read")
    stuck = False  # a thread that reads from a dead disk never returns
    try:
        with fetched_ahead(reader.caches, reader.arrays, order, first=first, last=last) as advance:
            for step in range(first, last):
                advance(queue[0][0] if queue else step, step)
                for number in mine:
                    queue.append((step, pool.submit(read, step, number)))
                    if len(queue) > threads + 1:
                        yield wait_for(queue.popleft()[1])
            while queue:
                yield wait_for(queue.popleft()[1])
    except Interrupted:
        stuck = True
        raise
    finally:
        pool.shutdown(wait=not stuck, cancel_futures=True)
