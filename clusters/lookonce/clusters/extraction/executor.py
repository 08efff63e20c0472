"""Extraction by Ray workers: each worker extracts and writes whole shards, and returns only small events.

No feature passes through Ray's object store. The shards of a lost worker go to other workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lookonce.clusters.cluster import ray_cluster
from lookonce.clusters.extraction.resources import expected_workers, worker_resources
from lookonce.clusters.extraction.scheduler import ShardScheduler
from lookonce.clusters.extraction.worker import WorkerJob
from lookonce.clusters.extraction.worker_pool import WorkerPool
from lookonce.extract.config import ExtractionConfig
from lookonce.extract.pipeline.events import ProgressEvent
from lookonce.extract.pipeline.open_shard import ShardTask
from lookonce.extract.pipeline.pipeline import QUEUED_BATCHES
from lookonce.extract.pipeline.teacher_threads import GPU_THREADS, MAX_CPU_THREADS
from lookonce.extract.prepare import BATCH_SIZES, Extraction
from lookonce.extract.views.view_batch import PREFETCHED_WINDOWS
from lookonce.storage_schemas.manifest import Manifest


class RayExecutor:
    """Gives shards to the workers of a Ray cluster as they become free; a ``lookonce.extract.run.Executor``."""

    def check(self, config: ExtractionConfig) -> None:
        """Refuse too many workers for this machine; another cluster is checked when ``run`` joins it.

        Raises:
            UsageError: more workers than this machine has CPUs.
        """
        if config.ray_address == "local":
            expected_workers(config)

    def run(self, extraction: Extraction, manifest: Manifest, tasks: Sequence[ShardTask]) -> Iterator[ProgressEvent]:
        """Extract shards; yields the events of all workers.

        Raises:
            UsageError: no cluster at ``--ray-address``, or more workers than it has CPUs.
            WorkerLostError: a shard lost its worker again and again.
            HeadLostError: the head of the cluster is gone.
            LookonceError: any error that a worker raises.
        """
        config = extraction.config
        with ray_cluster(config.ray_address, without="--executor inline"):
            resources = worker_resources(config)
            scheduler = ShardScheduler(tasks, ahead=_views_ahead(config, tasks, on_gpu=resources.gpus > 0))
            job = WorkerJob(
                config, manifest, extraction.view, extraction.source, extraction.reuse, threads=resources.cpus
            )
            pool = WorkerPool(resources, job, scheduler, stall_timeout=config.stall_timeout)
            yield from pool.events()


def _views_ahead(config: ExtractionConfig, tasks: Sequence[ShardTask], *, on_gpu: bool) -> int:
    """Views in a full pipeline of a worker: started, but not reported yet."""
    being_made = PREFETCHED_WINDOWS * max(len(task.seeds) for task in tasks)
    teacher_threads = GPU_THREADS if on_gpu else MAX_CPU_THREADS
    batch_size = config.batch_size or BATCH_SIZES["cuda" if on_gpu else "cpu"]
    return batch_size * 2 * (teacher_threads + QUEUED_BATCHES + being_made)
