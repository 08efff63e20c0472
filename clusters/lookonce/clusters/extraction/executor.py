"""Extraction by Ray workers: each takes whole shards, writes them itself and returns only progress and receipts.

No feature ever passes through the object store. A lost worker's shards go to others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lookonce.clusters.cluster import ray_cluster
from lookonce.clusters.extraction.resources import expected_workers, worker_resources
from lookonce.clusters.extraction.scheduler import ShardScheduler
from lookonce.clusters.extraction.worker_pool import WorkerPool
from lookonce.extract.config import ExtractionConfig
from lookonce.extract.pipeline.pipeline import QUEUED_BATCHES
from lookonce.extract.pipeline.shard_extractor import BatchProgress, ShardTask
from lookonce.extract.pipeline.teacher_threads import GPU_THREADS, MAX_CPU_THREADS
from lookonce.extract.prepare import BATCH_SIZES, Extraction
from lookonce.extract.views.view_batch import WINDOWS_AHEAD
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt


class RayExecutor:
    """Hands shards to the workers of a Ray cluster as they become free; see ``lookonce.extract.run.Executor``."""

    def check(self, config: ExtractionConfig) -> None:
        """Refuse too many workers for this machine; another cluster is asked when it is joined.

        Raises:
            UsageError: more workers than this machine has CPUs.
        """
        if config.ray_address == "local":
            expected_workers(config)

    def run(
        self, extraction: Extraction, manifest: Manifest, tasks: Sequence[ShardTask]
    ) -> Iterator[BatchProgress | Receipt]:
        """Extract shards; yields what the workers yield.

        Raises:
            UsageError: no cluster at ``--ray-address``, or more workers than it has CPUs.
            WorkerLostError: a shard's workers died again and again.
            HeadLostError: the cluster's head is gone.
            LookonceError: whatever a worker raised.
        """
        config = extraction.config
        with ray_cluster(config.ray_address, without="--executor inline"):
            resources = worker_resources(config)
            scheduler = ShardScheduler(tasks, ahead=_views_ahead(config, tasks, on_gpu=resources.gpus > 0))
            arguments = (config, manifest, extraction.view, extraction.source, extraction.reuse)
            pool = WorkerPool(resources, arguments, scheduler, stall_timeout=config.stall_timeout)
            yield from pool.events()


def _views_ahead(config: ExtractionConfig, tasks: Sequence[ShardTask], *, on_gpu: bool) -> int:
    """Views that a worker may still have to tell of when no views are left to be made: what fills its pipeline."""
    being_made = WINDOWS_AHEAD * max(len(task.seeds) for task in tasks)
    teacher_threads = GPU_THREADS if on_gpu else MAX_CPU_THREADS
    batch_size = config.batch_size or BATCH_SIZES["cuda" if on_gpu else "cpu"]
    return batch_size * 2 * (teacher_threads + QUEUED_BATCHES + being_made)
