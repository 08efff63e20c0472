"""The Ray actor: a teacher, and a pipeline that stays filled from one shard to the next."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator

from lookonce.clusters.extraction.counters import WorkerMetrics
from lookonce.extract.config import ExtractionConfig
from lookonce.extract.pipeline.shard_extractor import BatchProgress, ShardExtractor, ShardTask
from lookonce.extract.prepare import load_config_teacher, resolve_batch_size, resolve_device
from lookonce.extract.reuse.earlier_cache import Reuse
from lookonce.shared.errors import RecipeMismatchError
from lookonce.shared.sources import ImageSource
from lookonce.shared.views import ViewRecipe
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt

POLL_INTERVAL = 0.01
"""Seconds between two looks for a new task; what is under way goes on meanwhile."""


class ExtractionWorker:
    """Takes whole shards, writes them itself and streams progress and receipts; an actor of two threads.

    The teacher is loaded by ``run``, not by ``__init__``: what goes wrong in an actor's ``__init__`` reaches the
    driver as a text about a dead actor, what goes wrong in a task as the error that it is.
    """

    def __init__(
        self,
        config: ExtractionConfig,
        manifest: Manifest,
        view: ViewRecipe,
        source: ImageSource,
        reuse: Reuse | None,
        threads: int,
    ) -> None:
        self._config, self._manifest, self._view, self._source = config, manifest, view, source
        self._reuse = reuse
        self._threads = threads
        self._tasks: queue.SimpleQueue[ShardTask | None] = queue.SimpleQueue()

    def add_task(self, task: ShardTask | None) -> None:
        """Add a task to those that ``run`` does; None: there will be no more."""
        self._tasks.put(task)

    def run(self) -> Iterator[BatchProgress | Receipt]:
        """Do what is given, until None is; streamed, item by item, an empty one first: there is a place for it.

        Raises:
            RecipeMismatchError: this node's weights are others than the cache's.
            LookonceError: see ``ShardExtractor.extract``.
        """
        yield BatchProgress()
        extractor, metrics = self._load(), WorkerMetrics()
        for event in extractor.extract(
            self._tasks_given()
        ):  # not ``yield from``: Ray sends statistics into this generator
            metrics.count(event)
            yield event

    def _tasks_given(self) -> Iterator[ShardTask | None]:
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
        config, wanted = self._config, self._manifest.recipe.teacher.weights_digest
        teacher = load_config_teacher(config, resolve_device(config.device), quiet=True)
        if teacher.weights_digest != wanted:
            raise RecipeMismatchError(
                f"worker on {os.uname().nodename}: the teacher's weights here have digest {teacher.weights_digest}, "
                f"the cache was made with {wanted}; give all nodes the same weights file"
            )
        return ShardExtractor(
            config.out,
            self._manifest,
            self._view,
            self._source,
            teacher,
            batch_size=resolve_batch_size(config.batch_size, teacher.mean.device),
            skip_bad_images=config.on_bad_image == "skip",
            threads=self._threads,
            reuse=self._reuse,
        )
