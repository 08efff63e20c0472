"""Extraction by Ray workers: each takes whole shards, writes them itself and returns only progress and receipts.

No feature ever passes through the object store. A lost worker's shards go to others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import ray

from lookonce.extract.config import ExtractionConfig
from lookonce.extract.hand_out import HandOut
from lookonce.extract.image_views import BATCHES_AHEAD
from lookonce.extract.lanes import MOST_CPU_LANES
from lookonce.extract.pipeline import AHEAD
from lookonce.extract.ray_cluster import ray_cluster
from lookonce.extract.ray_crew import Crew
from lookonce.extract.reuse import Reuse
from lookonce.extract.shard_extractor import BatchProgress, ShardTask
from lookonce.extract.workers import WorkerResources, share_out
from lookonce.shared.sources import ImageSource
from lookonce.shared.views import ViewRecipe
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt


def worker_resources(config: ExtractionConfig) -> WorkerResources:
    """How many workers the running cluster has place for, and what each asks Ray for.

    Raises:
        UsageError: more workers than the cluster has CPUs or GPUs for.
    """
    total = ray.cluster_resources()
    return share_out(config, cpus=int(total.get("CPU", 1)), gpus=int(total.get("GPU", 0)))


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
    with ray_cluster(config.ray_address, without="--executor inline"):
        hand_out = HandOut(tasks, ahead=_views_ahead(config, tasks))
        arguments = (config, manifest, view, source, reuse)
        yield from Crew(worker_resources(config), arguments, hand_out, stall_timeout=config.stall_timeout).events()


def _views_ahead(config: ExtractionConfig, tasks: Sequence[ShardTask]) -> int:
    """Views that a worker may still have to tell of when no views are left to be made: what fills its pipeline."""
    being_made = BATCHES_AHEAD * max(len(task.seeds) for task in tasks)
    return config.batch_size * 2 * (MOST_CPU_LANES + AHEAD + being_made)
