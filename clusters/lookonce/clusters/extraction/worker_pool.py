"""The running Ray workers: started, given shards as they become free, replaced when they are lost or stall."""

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
from lookonce.clusters.extraction.worker import ExtractionWorker, WorkerEvent, WorkerJob
from lookonce.clusters.head_watch import HeadWatch
from lookonce.extract.pipeline.events import ProgressEvent, WorkerStarted, WorkLost
from lookonce.shared.errors import WorkerLostError

MAX_WAIT = 1.0
"""Longest wait for an event, seconds."""

PLACED_WITHIN = 30.0
"""Seconds after which the user is informed that Ray has not placed any worker."""


@dataclass
class _Worker:
    """A Ray actor and its state."""

    actor: Any
    name: str = ""
    """Node and process; empty until Ray has started it."""
    silent_seconds: float = 0.0
    """Seconds since its last event; those in which this process slept do not count."""
    dismissed: bool = False
    """It has received the end of its tasks."""


class WorkerPool:
    """Workers that extract the tasks of a scheduler.

    Args:
        resources: how many workers, and what each takes.
        job: of every worker.
        scheduler: assigns the tasks.
        stall_timeout: seconds without an event after which a worker with tasks is given up; 0 waits forever.
    """

    def __init__(
        self, resources: WorkerResources, job: WorkerJob, scheduler: ShardScheduler, *, stall_timeout: float
    ) -> None:
        self._actor_class = ray.remote(ExtractionWorker).options(
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_concurrency=2
        )
        self._resources, self._job = resources, job
        self._scheduler, self._stall_timeout = scheduler, stall_timeout
        self._workers: dict[Any, _Worker] = {}
        """By the stream of their events."""
        self._failed_starts = 0
        """Workers that died before their first event, since one last started."""
        self._head = HeadWatch(ray.get_runtime_context().gcs_address)

    def events(self) -> Iterator[ProgressEvent]:
        """Events of all workers as they arrive, until all tasks are committed.

        Raises:
            WorkerLostError: a shard lost its worker again and again.
            HeadLostError: the head of the cluster is gone.
            LookonceError: any error that a worker raises.
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
                if not any(worker.name for worker in self._workers.values()):
                    self._report_waiting()

    def _ready(self) -> list[Any]:
        """Streams with an event to fetch."""
        streams, started = list(self._workers), time.monotonic()
        ray.wait(streams, num_returns=1, timeout=MAX_WAIT, fetch_local=False)
        passed = min(time.monotonic() - started, MAX_WAIT)
        ready: list[Any]
        ready, _ = ray.wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)  # all: no worker starves
        for worker in self._workers.values():
            worker.silent_seconds += passed
        return ready

    def _next_event(self, stream: Any) -> Iterator[ProgressEvent]:
        worker = self._workers[stream]
        try:
            fetched: Any = ray.get(next(stream))  # Ray types neither streams nor their items
        except StopIteration:  # dismissed
            del self._workers[stream]
            self._scheduler.requeue(stream, "")
            return
        except RayTaskError as error:  # raised by our code in the worker; Ray's text contains its traceback
            raise error.cause from error
        except RayError as error:
            yield from self._replace(stream, "a worker was lost", " ".join(str(error).split()))
            return
        event: WorkerEvent = fetched
        worker.silent_seconds = 0.0
        if isinstance(event, WorkerStarted):
            worker.name, self._failed_starts = event.worker, 0
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
            and worker.name
            and not worker.dismissed
            and worker.silent_seconds >= self._stall_timeout
        )

    def _replace_stalled(self, stream: Any) -> Iterator[WorkLost]:
        worker = self._workers[stream]
        ray.kill(worker.actor)
        why = f"sent nothing for {worker.silent_seconds:.0f} s"
        what = f"the worker {worker.name} was given up: it {why} (--stall-timeout)"
        yield from self._replace(stream, what, f"{worker.name} {why}")

    def _replace(self, stream: Any, what: str, why: str) -> Iterator[WorkLost]:
        """Requeue the tasks of a lost worker and start another one; yields the progress that is lost."""
        worker = self._workers.pop(stream)
        shards, lost = self._scheduler.requeue(stream, why)
        if not worker.name:
            self._failed_starts += 1
            if self._failed_starts == MAX_ATTEMPTS:
                raise WorkerLostError(
                    f"{MAX_ATTEMPTS} workers died before they started ({why:.300}); committed shards stay valid. Check "
                    "that every node has the same lookonce and enough memory for a teacher (ray logs), then run again"
                )
        if shards:
            noun, verb = ("shard", "goes") if len(shards) == 1 else ("shards", "go")
            which = " and ".join(map(str, shards))
            _print_line(f"{what}; {noun} {which} {verb} to another")
            yield lost
        if not self._scheduler.exhausted:
            self._start_worker()

    def _start_worker(self) -> None:
        actor: Any = self._actor_class.remote(self._job)
        stream = actor.run.options(num_returns="streaming").remote()
        self._workers[stream] = _Worker(actor)
        self._scheduler.add_worker(stream)

    def _report_waiting(self) -> None:
        gpus = f" and {self._resources.gpus:g} GPUs" if self._resources.gpus else ""
        _print_line(
            f"Ray has found no node yet with {self._resources.cpus} free CPUs{gpus} for a worker; waiting "
            "(ray status lists free resources)"
        )


def _print_line(sentence: str) -> None:
    """Write a line above the progress bar."""
    tqdm.write(sentence, file=sys.stderr)
