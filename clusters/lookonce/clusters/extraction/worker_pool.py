"""The living Ray workers: hired, given shards as they become free, replaced when they are lost or hang."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from tqdm import tqdm

from lookonce.clusters.extraction.resources import WorkerResources
from lookonce.clusters.extraction.scheduler import MAX_ATTEMPTS, ShardScheduler
from lookonce.clusters.extraction.worker import ExtractionWorker
from lookonce.clusters.head_watch import HeadWatch
from lookonce.extract.pipeline.shard_extractor import BatchProgress
from lookonce.shared.errors import WorkerLostError
from lookonce.storage_schemas.receipt import Receipt

MAX_WAIT = 1.0
"""Longest wait for an event, seconds."""

PLACED_WITHIN = 30.0
"""Seconds after which it is told that Ray has not found a place for any worker."""


@dataclass
class _Worker:
    """A worker of ours."""

    actor: Any
    location: str = ""
    """Node and process; empty until Ray has started it."""
    silent_seconds: float = 0.0
    """Seconds since it said something; those in which this process slept don't count."""
    dismissed: bool = False
    """It was told that there is nothing left to do."""


class WorkerPool:
    """Workers that do tasks.

    Args:
        resources: how many, and what each takes.
        arguments: of ``ExtractionWorker``, but the last.
        scheduler: the tasks.
        stall_timeout: seconds without a word after which a worker that has tasks is given up; 0 waits for ever.
    """

    def __init__(
        self, resources: WorkerResources, arguments: tuple[Any, ...], scheduler: ShardScheduler, *, stall_timeout: float
    ) -> None:
        self._actor_class = ray.remote(ExtractionWorker).options(
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_concurrency=2
        )
        self._resources, self._arguments = resources, (*arguments, resources.cpus)
        self._scheduler, self._stall_timeout = scheduler, stall_timeout
        self._workers: dict[Any, _Worker] = {}
        self._failed_starts = 0
        """Workers that died before they began, since one last began."""
        self._head = HeadWatch(ray.get_runtime_context().gcs_address)

    def events(self) -> Iterator[BatchProgress | Receipt]:
        """What the workers say, as it comes, until all tasks are committed.

        Raises:
            WorkerLostError: a shard's workers died again and again.
            HeadLostError: the cluster's head is gone.
            LookonceError: whatever a worker raised.
        """
        for _ in range(min(self._resources.workers, self._scheduler.uncommitted)):
            self._start_worker()
        started, reported = time.monotonic(), False
        while self._scheduler.uncommitted:
            self._head.check()
            for stream in self._ready():
                yield from self._next_event(stream)
            for stream in [stream for stream, worker in self._workers.items() if self._is_stalled(worker)]:
                yield from self._replace_stalled(stream)
            if not reported and time.monotonic() - started > PLACED_WITHIN:
                reported = True
                if not any(worker.location for worker in self._workers.values()):
                    self._report_waiting()

    def _ready(self) -> list[Any]:
        """Streams with something to fetch."""
        streams, started = list(self._workers), time.monotonic()
        ray.wait(streams, num_returns=1, timeout=MAX_WAIT, fetch_local=False)
        passed = min(time.monotonic() - started, MAX_WAIT)
        ready: list[Any] = ray.wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)[
            0
        ]  # none is starved
        for worker in self._workers.values():
            worker.silent_seconds += passed
        return ready

    def _next_event(self, stream: Any) -> Iterator[BatchProgress | Receipt]:
        worker = self._workers[stream]
        try:
            fetched: Any = ray.get(next(stream))  # Ray annotates neither streams nor what is fetched from them
        except StopIteration:  # dismissed
            del self._workers[stream]
            self._scheduler.requeue(stream, "")
            return
        except RayTaskError as error:  # raised by our code in the worker; Ray's text holds its traceback
            raise error.cause from error
        except RayError as error:
            yield from self._replace(stream, "a worker was lost", " ".join(str(error).split()))
            return
        event: BatchProgress | Receipt = fetched
        worker.silent_seconds = 0.0
        if not worker.location and isinstance(event, BatchProgress):
            worker.location, self._failed_starts = event.worker, 0
        else:
            self._scheduler.count(stream, event)
            yield event
        while (task := self._scheduler.next_task(stream)) is not None:
            worker.actor.add_task.remote(task)
        if self._scheduler.exhausted and not self._scheduler.has_tasks(stream) and not worker.dismissed:
            worker.dismissed = True
            worker.actor.add_task.remote(None)

    def _is_stalled(self, worker: _Worker) -> bool:
        return bool(
            self._stall_timeout
            and worker.location
            and not worker.dismissed
            and worker.silent_seconds >= self._stall_timeout
        )

    def _replace_stalled(self, stream: Any) -> Iterator[BatchProgress]:
        worker = self._workers[stream]
        ray.kill(worker.actor)
        why = f"said nothing for {worker.silent_seconds:.0f} s"
        what = f"the worker {worker.location} was given up: it {why} (--stall-timeout)"
        yield from self._replace(stream, what, f"{worker.location} {why}")

    def _replace(self, stream: Any, what: str, why: str) -> Iterator[BatchProgress]:
        """Hand a lost worker's tasks to others, and hire one more; takes back the progress that was lost with it."""
        worker = self._workers.pop(stream)
        shards, lost = self._scheduler.requeue(stream, why)
        if not worker.location:
            self._failed_starts += 1
            if self._failed_starts == MAX_ATTEMPTS:
                raise WorkerLostError(
                    f"{MAX_ATTEMPTS} workers died before they began ({why:.300}); committed shards stay valid. Look "
                    "whether every node has the same lookonce and room for a teacher (ray logs), then run again"
                )
        if shards:
            noun, verb = ("shard", "goes") if len(shards) == 1 else ("shards", "go")
            which = " and ".join(map(str, shards))
            _print_line(f"{what}; {noun} {which} {verb} to another")
            yield lost
        if not self._scheduler.exhausted:
            self._start_worker()

    def _start_worker(self) -> None:
        actor = self._actor_class.remote(*self._arguments)
        stream = actor.run.options(num_returns="streaming").remote()
        self._workers[stream] = _Worker(actor)
        self._scheduler.add_worker(stream)

    def _report_waiting(self) -> None:
        wanted = f"{self._resources.cpus} CPUs" + (
            f" and {self._resources.gpus:g} GPUs" if self._resources.gpus else ""
        )
        _print_line(
            f"Ray has found no place yet for a worker of {wanted} on one node; waiting (ray status tells what is free)"
        )


def _print_line(sentence: str) -> None:
    """Write a line above the progress bar."""
    tqdm.write(sentence, file=sys.stderr)
