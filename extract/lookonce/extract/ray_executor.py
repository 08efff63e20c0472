"""Extraction by Ray workers: each takes whole shards, writes them itself and returns only progress and receipts.

No feature ever passes through the object store. A lost worker's shards go to others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from lookonce.extract.config import ExtractionConfig
from lookonce.extract.hand_out import HandOut
from lookonce.extract.image_views import BATCHES_AHEAD
from lookonce.extract.lanes import MOST_CPU_LANES
from lookonce.extract.pipeline import AHEAD
from lookonce.extract.ray_crew import Crew
from lookonce.extract.reuse import Reuse
from lookonce.extract.shard_extractor import BatchProgress, ShardTask
from lookonce.extract.workers import WorkerResources, share_out
from lookonce.shared.errors import LookonceError, UsageError
from lookonce.shared.sources import ImageSource
from lookonce.shared.views import ViewRecipe
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt


class RayStartError(LookonceError):
    """Ray does not start here: run again when the machine is less busy, or without Ray."""

    code = "L802"


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

    Where this process has called ``ray.init`` itself, for a ``runtime_env`` say, that is used, and left as it is.

    Raises:
        UsageError: there is no cluster at the address.
        RayStartError: a local one does not start.
    """
    if ray.is_initialized():
        yield
        return
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
        hand_out = HandOut(tasks, ahead=_views_ahead(config, tasks))
        arguments = (config, manifest, view, source, reuse)
        yield from Crew(worker_resources(config), arguments, hand_out, stall_timeout=config.stall_timeout).events()


def _views_ahead(config: ExtractionConfig, tasks: Sequence[ShardTask]) -> int:
    """Views that a worker may still have to tell of when no views are left to be made: what fills its pipeline."""
    being_made = BATCHES_AHEAD * max(len(task.seeds) for task in tasks)
    return config.batch_size * 2 * (MOST_CPU_LANES + AHEAD + being_made)
