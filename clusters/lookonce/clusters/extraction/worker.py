"""The Ray actor of an extraction: a teacher, and a pipeline that stays filled from one shard to the next."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator
from dataclasses import dataclass

from lookonce.clusters.extraction.counters import WorkerMetrics
from lookonce.extract.config import ExtractionConfig
from lookonce.extract.pipeline.events import ShardEvent, WorkerStarted
from lookonce.extract.pipeline.open_shard import ShardTask
from lookonce.extract.pipeline.shard_extractor import ShardExtractor
from lookonce.extract.prepare import load_config_teacher, resolve_batch_size, resolve_view_processes
from lookonce.extract.reuse.earlier_cache import Reuse
from lookonce.shared.errors import RecipeMismatchError
from lookonce.shared.sources import ImageSource
from lookonce.shared.views import ViewRecipe
from lookonce.storage_schemas.manifest import Manifest
from lookonce.weights.device import resolve_device

POLL_INTERVAL = 0.01
"""Seconds to wait for a task before submitted work continues."""

WorkerEvent = WorkerStarted | ShardEvent
"""Events that a worker streams to the driver."""


@dataclass(frozen=True)
class WorkerJob:
    """What a worker needs before its first task; pickled once per worker."""

    config: ExtractionConfig
    manifest: Manifest
    view: ViewRecipe
    """View recipe of the manifest, with its constants."""
    source: ImageSource
    reuse: Reuse | None
    threads: int
    """CPU cores of the worker."""


class ExtractionWorker:
    """Extracts whole shards, writes them itself and streams events; an actor with two threads.

    ``run`` loads the teacher, not ``__init__``: an error in an actor's ``__init__`` reaches the driver as a text about
    a dead actor, an error in a task keeps its class.
    """

    def __init__(self, job: WorkerJob) -> None:
        self._job = job
        self._tasks: queue.SimpleQueue[ShardTask | None] = queue.SimpleQueue()

    def add_task(self, task: ShardTask | None) -> None:
        """Queue a task for ``run``; None: there are no more."""
        self._tasks.put(task)

    def run(self) -> Iterator[WorkerEvent]:
        """Extract the queued tasks until None; a streaming generator.

        The first event is ``WorkerStarted``: Ray has placed the actor.

        Raises:
            RecipeMismatchError: this node has other weights than the cache.
            LookonceError: see ``ShardExtractor.extract``.
        """
        yield WorkerStarted()
        extractor, metrics = self._load(), WorkerMetrics()
        events = extractor.extract(self._queued_tasks())
        for event in events:  # not ``yield from``: Ray sends statistics into this generator
            metrics.count(event)
            yield event

    def _queued_tasks(self) -> Iterator[ShardTask | None]:
        while True:
            try:
                task = self._tasks.get(timeout=POLL_INTERVAL)
            except queue.Empty:
                yield None
                continue
            if task is None:
                return
            yield task

    def _load(self) -> ShardExtractor:
        job, config = self._job, self._job.config
        expected = job.manifest.recipe.teacher.weights_digest
        teacher = load_config_teacher(config, resolve_device(config.device), quiet=True)
        if teacher.weights_digest != expected:
            raise RecipeMismatchError(
                f"worker on {os.uname().nodename}: the teacher's weights here have digest {teacher.weights_digest}, "
                f"the cache was made with {expected}; give all nodes the same weights file"
            )
        device = teacher.mean.device
        return ShardExtractor(
            config.out,
            job.manifest,
            job.view,
            job.source,
            teacher,
            batch_size=resolve_batch_size(config.batch_size, device),
            skip_bad_images=config.on_bad_image == "skip",
            threads=job.threads,
            view_processes=resolve_view_processes(config.view_processes, device, job.threads),
            reuse=job.reuse,
        )
