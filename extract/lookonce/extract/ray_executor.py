"""Ray workers: each takes whole shards, writes them itself and returns only progress and receipts.

No feature ever passes through the object store. A lost worker's shard goes to a new one.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from lookonce.extract.config import ExtractionConfig
from lookonce.extract.prepare import load_config_teacher, resolve_device
from lookonce.extract.ray_head import HeadWatch
from lookonce.extract.reuse import Reuse
from lookonce.extract.shard_extractor import BatchProgress, ShardExtractor, ShardTask
from lookonce.extract.workers import WorkerResources, share_out
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


class RayStartError(LookonceError):
    """Ray does not start here: run again when the machine is less busy, or without Ray."""

    code = "L802"


class ExtractionWorker:
    """The actor: a teacher and everything a shard needs.

    The teacher is loaded with the first shard, not with the actor: what goes wrong in an actor's ``__init__`` reaches
    the driver as a text about a dead actor, what goes wrong in a task as the error that it is.
    """

    def __init__(
        self, config: ExtractionConfig, manifest: Manifest, view: ViewRecipe, source: ImageSource, reuse: Reuse | None,
        threads: int,
    ) -> None:  # fmt: skip
        self._config, self._manifest, self._view, self._source = config, manifest, view, source
        self._reuse = reuse
        self._threads = threads
        self._extractor: ShardExtractor | None = None

    def extract(self, task: ShardTask) -> Iterator[BatchProgress | Receipt]:
        """See ``ShardExtractor.extract``; streamed, item by item.

        Raises:
            RecipeMismatchError: this node's weights are others than the cache's.
        """
        if self._extractor is None:
            self._extractor = self._load()
        for event in self._extractor.extract([task]):  # noqa: UP028 - Ray sends statistics into this generator,
            yield event  # which ``yield from`` would hand on

    def _load(self) -> ShardExtractor:
        config, wanted = self._config, self._manifest.recipe.teacher.weights_digest
        teacher = load_config_teacher(config, resolve_device(config.device))
        if teacher.weights_digest != wanted:
            raise RecipeMismatchError(
                f"worker on {os.uname().nodename}: the teacher's weights here have digest {teacher.weights_digest}, "
                f"the cache was made with {wanted}; give all nodes the same weights file"
            )
        return ShardExtractor(
            config.out, self._manifest, self._view, self._source, teacher,
            batch_size=config.batch_size, skip_bad_images=config.on_bad_image == "skip", threads=self._threads,
            reuse=self._reuse,
        )  # fmt: skip


def worker_resources(config: ExtractionConfig) -> WorkerResources:
    """How many workers the running cluster has place for, and what each asks Ray for.

    Raises:
        UsageError: more workers than the cluster has CPUs or GPUs for.
    """
    total = ray.cluster_resources()
    return share_out(config, cpus=int(total.get("CPU", 1)), gpus=int(total.get("GPU", 0)))


@contextlib.contextmanager
def ray_cluster(address: str) -> Iterator[None]:
    """Join a cluster, or start a local one; leave it (and stop a local one) afterwards.

    Raises:
        UsageError: there is no cluster at the address.
        RayStartError: a local one does not start.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's own future default; silences its warning
    _require_listener(address)
    options: dict[str, Any] = {} if address != "local" else {"include_dashboard": False}
    sigterm = signal.getsignal(signal.SIGTERM)
    try:
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **options)
        except (ConnectionError, ValueError) as error:
            raise UsageError(f"--ray-address {address}: no Ray cluster can be joined there: {error}") from error
        except Exception as error:  # bare, where a local Ray is not up within Ray's own 30 s
            raise RayStartError(
                f"--ray-address {address}: Ray did not start: {error} The machine may be too busy, or its temporary "
                "folder full; run the same command again, or without Ray: --executor inline"
            ) from error
        except SystemExit as stop:  # Ray's SIGTERM handler, which ends the process with code 15 and without a word
            raise KeyboardInterrupt from stop
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, sigterm)  # ray.init has put its own there
        yield
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Refuse HOST:PORT where nothing listens: ray.init would try for ever, in silence."""
    host, colon, port = address.rpartition(":")
    if not colon or "://" in address:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"--ray-address {address}: no Ray cluster can be joined there: {error}") from error


class _Crew:
    """The living workers and what each is doing."""

    def __init__(self, resources: WorkerResources, arguments: tuple[Any, ...], tasks: Sequence[ShardTask]) -> None:
        self._actor_class = ray.remote(ExtractionWorker).options(num_cpus=resources.cpus, num_gpus=resources.gpus)
        self._arguments = (*arguments, resources.cpus)
        self._waiting = collections.deque(tasks)
        self._lost: collections.Counter[ShardTask] = collections.Counter()
        self._busy: dict[Any, _Job] = {}
        self._head = HeadWatch(ray.get_runtime_context().gcs_address)
        for _ in range(min(resources.workers, len(tasks))):
            self._start(self._hire())

    def events(self) -> Iterator[BatchProgress | Receipt]:
        """What the workers yield, as it comes, until all tasks are done."""
        while self._busy:
            self._head.check()
            ready, _ = ray.wait(list(self._busy), num_returns=1, timeout=1.0, fetch_local=False)
            for stream in ready:
                try:
                    event = self._result(stream)
                except StopIteration:
                    self._start(self._busy.pop(stream).worker)
                except RayTaskError as error:  # raised by our code in the worker; Ray's text holds its traceback
                    raise error.cause from error
                except RayError as error:
                    yield self._replace(self._busy.pop(stream), error)
                else:
                    if isinstance(event, BatchProgress):
                        self._busy[stream].views += event.views
                        self._busy[stream].copied += event.copied
                    yield event

    @staticmethod
    def _result(stream: Any) -> BatchProgress | Receipt:
        fetched: Any = ray.get(next(stream))  # Ray annotates neither streams nor what is fetched from them
        return fetched  # type: ignore[no-any-return]

    def _hire(self) -> Any:
        return self._actor_class.remote(*self._arguments)

    def _start(self, worker: Any) -> None:
        """Give the worker the next task; without one it is let go."""
        if self._waiting:
            task = self._waiting.popleft()
            self._busy[worker.extract.options(num_returns="streaming").remote(task)] = _Job(worker, task)

    def _replace(self, job: _Job, error: RayError) -> BatchProgress:
        """Hand a dead worker's task to a new one; takes back the progress that was lost with it."""
        self._lost[job.task] += 1
        if self._lost[job.task] == TRIES:
            reason = " ".join(str(error).split())
            raise WorkerLostError(
                f"shard {job.task.shard} lost its worker {TRIES} times ({reason:.300}); committed shards stay valid. "
                "Look for memory or driver trouble (ray logs), try fewer --workers or a smaller --batch-size, run again"
            ) from error
        print(f"a worker was lost; shard {job.task.shard} goes to a new one", file=sys.stderr, flush=True)
        self._waiting.append(job.task)
        self._start(self._hire())
        return BatchProgress(views=-job.views, copied=-job.copied)


@dataclass
class _Job:
    worker: Any
    task: ShardTask
    views: int = 0
    """Views of the task that were counted as looked at."""
    copied: int = 0
    """Views of the task that were counted as copied."""


def run_ray(
    config: ExtractionConfig,
    manifest: Manifest,
    view: ViewRecipe,
    source: ImageSource,
    reuse: Reuse | None,
    tasks: Sequence[ShardTask],
) -> Iterator[BatchProgress | Receipt]:
    """Hand shards to workers as they become free; yields what the workers yield.

    Raises:
        WorkerLostError: a shard's workers died again and again.
        HeadLostError: the cluster's head is gone.
        LookonceError: whatever a worker raised.
    """
    with ray_cluster(config.ray_address):
        yield from _Crew(worker_resources(config), (config, manifest, view, source, reuse), tasks).events()
