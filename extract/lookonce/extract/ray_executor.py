"""Ray workers: each takes whole shards, writes them itself and returns only progress and receipts.

No feature ever passes through the object store. A lost worker's shard goes to a new one.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from lookonce.extract.config import ExtractionConfig
from lookonce.extract.prepare import load_config_teacher, resolve_device
from lookonce.extract.shard_extractor import BatchProgress, ShardExtractor, ShardTask
from lookonce.shared.errors import LookonceError, RecipeMismatchError, UsageError
from lookonce.shared.sources import ImageSource
from lookonce.shared.views import ViewRecipe
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt

TRIES = 4
"""How often one shard is started before its workers' deaths end the extraction."""


class WorkerLostError(LookonceError):
    """Workers died again and again on the same shard: look for memory or driver trouble on the nodes."""

    code = "L800"


class ExtractionWorker:
    """The actor: a teacher and everything a shard needs."""

    def __init__(
        self, config: ExtractionConfig, manifest: Manifest, view: ViewRecipe, source: ImageSource, threads: int
    ) -> None:
        self._threads = threads
        torch.set_num_threads(threads)
        teacher = load_config_teacher(config, resolve_device(config.device))
        if teacher.weights_digest != manifest.recipe.teacher.weights_digest:
            raise RecipeMismatchError(
                f"worker on {os.uname().nodename}: the teacher's weights here have digest {teacher.weights_digest}, "
                f"the cache was made with {manifest.recipe.teacher.weights_digest}; "
                "give all nodes the same weights file"
            )
        self._extractor = ShardExtractor(
            config.out, manifest, view, source, teacher,
            batch_size=config.batch_size, skip_bad_images=config.on_bad_image == "skip",
        )  # fmt: skip

    def extract(self, task: ShardTask) -> Iterator[BatchProgress | Receipt]:
        """See ``ShardExtractor.extract``; streamed, item by item."""
        torch.set_num_threads(self._threads)
        yield from self._extractor.extract(task)


@dataclass(frozen=True)
class WorkerResources:
    """What one worker takes of the cluster."""

    workers: int
    cpus: float
    gpus: float


def worker_resources(config: ExtractionConfig) -> WorkerResources:
    """How many workers, and what each asks Ray for.

    Raises:
        UsageError: more workers than the cluster has CPUs or GPUs for.
    """
    total = ray.cluster_resources()
    cpus, gpus = int(total.get("CPU", 1)), int(total.get("GPU", 0))
    on_gpu = gpus > 0 and config.device != "cpu"
    auto = gpus if on_gpu else max(1, cpus // 2)
    workers = auto if config.workers == "auto" else int(config.workers)
    available = gpus if on_gpu else cpus
    if workers > available:
        kind = "GPUs" if on_gpu else "CPUs"
        raise UsageError(f"--workers {workers}: the Ray cluster has only {available} {kind}; use at most {available}")
    return WorkerResources(workers, max(1, cpus // workers), 1.0 if on_gpu else 0.0)


@contextlib.contextmanager
def ray_cluster(address: str) -> Iterator[None]:
    """Join a cluster, or start a local one; leave it (and stop a local one) afterwards.

    Raises:
        UsageError: there is no cluster at the address.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's own future default; silences its warning
    options: dict[str, Any] = {} if address != "local" else {"include_dashboard": False}
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, ValueError) as error:
        raise UsageError(f"--ray-address {address}: no Ray cluster can be joined there: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


class _Crew:
    """The living workers and what each is doing."""

    def __init__(self, config: ExtractionConfig, manifest: Manifest, view: ViewRecipe, source: ImageSource) -> None:
        self._resources = worker_resources(config)
        self._actor_class = ray.remote(ExtractionWorker).options(
            num_cpus=self._resources.cpus, num_gpus=self._resources.gpus
        )
        self._arguments = (config, manifest, view, source, int(self._resources.cpus))
        self._idle: list[Any] = [self._hire() for _ in range(self._resources.workers)]
        self.busy: dict[Any, tuple[Any, ShardTask]] = {}

    def _hire(self) -> Any:
        return self._actor_class.remote(*self._arguments)

    def give(self, tasks: collections.deque[ShardTask]) -> None:
        while self._idle and tasks:
            worker, task = self._idle.pop(), tasks.popleft()
            self.busy[worker.extract.options(num_returns="streaming").remote(task)] = (worker, task)

    def finished(self, stream: Any) -> None:
        worker, _ = self.busy.pop(stream)
        self._idle.append(worker)

    def lost(self, stream: Any) -> ShardTask:
        _, task = self.busy.pop(stream)
        self._idle.append(self._hire())
        return task


def run_ray(
    config: ExtractionConfig, manifest: Manifest, view: ViewRecipe, source: ImageSource, tasks: Sequence[ShardTask]
) -> Iterator[BatchProgress | Receipt]:
    """Hand shards to workers as they become free; yields what the workers yield.

    Raises:
        WorkerLostError: a shard's workers died again and again.
        LookonceError: whatever a worker raised.
    """
    waiting = collections.deque(tasks)
    tries: collections.Counter[int] = collections.Counter()
    with ray_cluster(config.ray_address):
        crew = _Crew(config, manifest, view, source)
        crew.give(waiting)
        while crew.busy:
            ready, _ = ray.wait(list(crew.busy), num_returns=1, timeout=1.0, fetch_local=False)
            for stream in ready:
                try:
                    yield ray.get(next(stream))
                except StopIteration:
                    crew.finished(stream)
                except RayActorError as error:
                    task = crew.lost(stream)
                    tries[task.shard] += 1
                    if tries[task.shard] >= TRIES:
                        raise _lost(task, config.out, error) from error
                    print(f"a worker was lost; shard {task.shard} goes to a new one", file=sys.stderr)
                    waiting.append(task)
                except RayTaskError as error:
                    raise (error.cause if isinstance(error.cause, LookonceError) else error) from None
                crew.give(waiting)


def _lost(task: ShardTask, root: Path, error: RayActorError) -> LookonceError:
    cause = getattr(error, "cause", None)
    if isinstance(cause, LookonceError):
        return cause
    first_line = str(error).strip().splitlines()[0]
    return WorkerLostError(
        f"{root}: shard {task.shard} lost its worker {TRIES} times ({first_line}); committed shards stay valid. "
        "Look for memory or driver trouble (ray logs), try --workers with fewer or a smaller --batch-size, run again"
    )
