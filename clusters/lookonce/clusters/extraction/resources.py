"""The number of workers of an extraction, and the resources of each."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from lookonce.extract.config import ExtractionConfig
from lookonce.shared.errors import UsageError


@dataclass(frozen=True)
class WorkerResources:
    """Workers, and what each takes of the cluster."""

    workers: int
    cpus: int
    gpus: float
    """A fraction if workers share a GPU."""

    @property
    def cores(self) -> int:
        """CPU cores of all workers together."""
        return self.workers * self.cpus


def allocate_workers(config: ExtractionConfig, *, cpus: int, gpus: int) -> WorkerResources:
    """The workers of a cluster of a given size.

    Args:
        config: of the extraction.
        cpus: CPUs of the cluster.
        gpus: GPUs of the cluster.

    Raises:
        UsageError: more workers than the cluster has CPUs for.
    """
    on_gpu = gpus > 0 and config.device != "cpu"
    auto = gpus if on_gpu else max(1, cpus // 2)
    workers = auto if config.workers == "auto" else int(config.workers)
    if workers > max(cpus, auto):
        raise UsageError(f"--workers {workers}: the Ray cluster has only {cpus} CPUs; use at most {max(cpus, auto)}")
    share = 1 / -(-workers // gpus) if on_gpu else 0.0
    return WorkerResources(workers, max(1, cpus // workers), share)


def worker_resources(config: ExtractionConfig) -> WorkerResources:
    """The workers of the running cluster.

    Raises:
        UsageError: more workers than the cluster has CPUs for.
    """
    import ray  # a plan must work without Ray

    total = ray.cluster_resources()
    return allocate_workers(config, cpus=int(total.get("CPU", 1)), gpus=int(total.get("GPU", 0)))


def expected_workers(config: ExtractionConfig) -> WorkerResources:
    """The workers that an extraction will have, without starting them; joins a running cluster to see its resources.

    Raises:
        UsageError: more workers than there are CPUs, or no cluster at ``--ray-address``.
    """
    cpus, gpus = len(os.sched_getaffinity(0)), torch.cuda.device_count()
    if config.executor == "inline":
        on_gpu = gpus > 0 and config.device != "cpu"
        return WorkerResources(1, cpus, 1.0 if on_gpu else 0.0)
    if config.ray_address == "local":
        return allocate_workers(config, cpus=cpus, gpus=gpus)
    from lookonce.clusters.cluster import ray_cluster  # a plan must work without Ray

    with ray_cluster(config.ray_address, without="--executor inline"):
        return worker_resources(config)
