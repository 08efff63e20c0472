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

from lookonce.extract.hand_out import TRIES, HandOut, WorkerLostError
from lookonce.extract.ray_head import HeadWatch
from lookonce.extract.ray_worker import ExtractionWorker
from lookonce.extract.shard_extractor import BatchProgress
from lookonce.extract.workers import WorkerResources
from lookonce.storage_schemas.receipt import Receipt

TICK = 1.0
"""Longest wait for an event, seconds."""

PLACED_WITHIN = 30.0
"""Seconds after which it is told that Ray has not found a place for any worker."""


@dataclass
class _Job:
    """A worker of ours."""

    worker: Any
    place: str = ""
    """Node and process; empty until Ray has started it."""
    silent: float = 0.0
    """Seconds since it said something; those in which this process slept don't count."""
    dismissed: bool = False
    """It was told that there is nothing left to do."""


class Crew:
    """Workers that do tasks.

    Args:
        resources: how many, and what each takes.
        arguments: of ``ExtractionWorker``, but the last.
        hand_out: the tasks.
        stall_timeout: seconds without a word after which a worker that has tasks is given up; 0 waits for ever.
    """

    def __init__(
        self, resources: WorkerResources, arguments: tuple[Any, ...], hand_out: HandOut, *, stall_timeout: float
    ) -> None:
        self._actor_class = ray.remote(ExtractionWorker).options(
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_concurrency=2
        )
        self._resources, self._arguments = resources, (*arguments, resources.cpus)
        self._hand_out, self._stall_timeout = hand_out, stall_timeout
        self._jobs: dict[Any, _Job] = {}
        self._stillborn = 0
        """Workers that died before they began, since one last began."""
        self._head = HeadWatch(ray.get_runtime_context().gcs_address)

    def events(self) -> Iterator[BatchProgress | Receipt]:
        """What the workers say, as it comes, until all tasks are committed.

        Raises:
            WorkerLostError: a shard's workers died again and again.
            HeadLostError: the cluster's head is gone.
            LookonceError: whatever a worker raised.
        """
        for _ in range(min(self._resources.workers, self._hand_out.open)):
            self._hire()
        started, told = time.monotonic(), False
        while self._hand_out.open:
            self._head.check()
            for stream in self._ready():
                yield from self._hear(stream)
            for stream in [stream for stream, job in self._jobs.items() if self._hangs(job)]:
                yield from self._give_up(stream)
            if not told and time.monotonic() - started > PLACED_WITHIN:
                told = True
                if not any(job.place for job in self._jobs.values()):
                    self._tell_waiting()

    def _ready(self) -> list[Any]:
        """Streams with something to fetch."""
        streams, started = list(self._jobs), time.monotonic()
        ray.wait(streams, num_returns=1, timeout=TICK, fetch_local=False)
        passed = min(time.monotonic() - started, TICK)
        ready: list[Any] = ray.wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)[
            0
        ]  # none is starved
        for job in self._jobs.values():
            job.silent += passed
        return ready

    def _hear(self, stream: Any) -> Iterator[BatchProgress | Receipt]:
        job = self._jobs[stream]
        try:
            fetched: Any = ray.get(next(stream))  # Ray annotates neither streams nor what is fetched from them
        except StopIteration:  # dismissed
            del self._jobs[stream]
            self._hand_out.take_back(stream, "")
            return
        except RayTaskError as error:  # raised by our code in the worker; Ray's text holds its traceback
            raise error.cause from error
        except RayError as error:
            yield from self._replace(stream, "a worker was lost", " ".join(str(error).split()))
            return
        event: BatchProgress | Receipt = fetched
        job.silent = 0.0
        if not job.place and isinstance(event, BatchProgress):
            job.place, self._stillborn = event.worker, 0
        else:
            self._hand_out.count(stream, event)
            yield event
        while (task := self._hand_out.give(stream)) is not None:
            job.worker.give.remote(task)
        if self._hand_out.exhausted and not self._hand_out.holds(stream) and not job.dismissed:
            job.dismissed = True
            job.worker.give.remote(None)

    def _hangs(self, job: _Job) -> bool:
        return bool(self._stall_timeout and job.place and not job.dismissed and job.silent >= self._stall_timeout)

    def _give_up(self, stream: Any) -> Iterator[BatchProgress]:
        job = self._jobs[stream]
        ray.kill(job.worker)
        what = f"the worker {job.place} was given up: it said nothing for {job.silent:.0f} s (--stall-timeout)"
        yield from self._replace(stream, what, f"{job.place} said nothing for {job.silent:.0f} s")

    def _replace(self, stream: Any, what: str, why: str) -> Iterator[BatchProgress]:
        """Hand a lost worker's tasks to others, and hire one more; takes back the progress that was lost with it."""
        job = self._jobs.pop(stream)
        shards, lost = self._hand_out.take_back(stream, why)
        if not job.place:
            self._stillborn += 1
            if self._stillborn == TRIES:
                raise WorkerLostError(
                    f"{TRIES} workers died before they began ({why:.300}); committed shards stay valid. Look whether "
                    "every node has the same lookonce and room for a teacher (ray logs), then run again"
                )
        if shards:
            noun, verb = ("shard", "goes") if len(shards) == 1 else ("shards", "go")
            which = " and ".join(map(str, shards))
            _tell(f"{what}; {noun} {which} {verb} to another")
            yield lost
        if not self._hand_out.exhausted:
            self._hire()

    def _hire(self) -> None:
        worker = self._actor_class.remote(*self._arguments)
        stream = worker.work.options(num_returns="streaming").remote()
        self._jobs[stream] = _Job(worker)
        self._hand_out.join(stream)

    def _tell_waiting(self) -> None:
        wanted = f"{self._resources.cpus} CPUs" + (
            f" and {self._resources.gpus:g} GPUs" if self._resources.gpus else ""
        )
        _tell(
            f"Ray has found no place yet for a worker of {wanted} on one node; waiting (ray status tells what is free)"
        )


def _tell(sentence: str) -> None:
    """Write a line above the progress bar."""
    tqdm.write(sentence, file=sys.stderr)
