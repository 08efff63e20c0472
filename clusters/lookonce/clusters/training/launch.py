"""``train-student --launcher ray``: the processes of a run on a Ray cluster, started again when one of them is lost.

Ray Train's TorchTrainer places the processes, joins them and notices the dead. Checkpoints are the run's own: every
start goes on from the newest one. What another start cannot mend (a damaged cache, wrong arguments) ends the run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from lookonce.clusters.cluster import ray_cluster
from lookonce.clusters.head_watch import HeadWatch
from lookonce.clusters.training.coordinator import RunCoordinator
from lookonce.clusters.training.launcher_options import LauncherOptions
from lookonce.clusters.training.placement import Placement, place
from lookonce.shared.errors import DistributedError, Interrupted, LookonceError, UsageError
from lookonce.shared.files.atomic import TEMPORARY_MARK
from lookonce.shared.stopping import unhurried
from lookonce.train.config import TrainingConfig
from lookonce.train.distributed.world import TIMEOUT
from lookonce.train.records.metrics import read_metrics

STOP_PATIENCE = 120.0
"""Seconds that processes have for a step and a checkpoint once a stop was asked for."""
REPORT_INTERVAL = 15.0
"""Seconds between two lines of progress."""


def train_on_ray(config: TrainingConfig, options: LauncherOptions, command: str) -> Mapping[str, Any]:
    """Run a training on a Ray cluster; cache and run lie on a disk that all its machines see under the same path.

    Args:
        config: the run.
        options: where its processes come from.
        command: recorded in ``config.json``.

    Returns:
        The summary's document, as ``train_student`` gives it.

    Raises:
        UsageError: Ray Train is not installed, or the cluster has no place.
        DistributedError: processes were lost more often than ``max_restarts``.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was left.
        LookonceError: what a process of the run raised.
    """
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")  # Ray's 60 s are few on a busy machine
    try:
        import ray.train.torch
    except ImportError as error:
        raise UsageError(f"--launcher ray needs Ray Train ({error}): pip install 'lookonce[ray-train]'") from error
    with ray_cluster(options.ray_address, without="torchrun"):
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        placement = place(options, machines, device=config.device)
        with _scratch(config.out.absolute()) as scratch:
            return _Launch(_with_absolute_paths(config), options, placement, scratch, command).run()


class _Launch:
    """One run, from its first start to its end."""

    def __init__(
        self, config: TrainingConfig, options: LauncherOptions, placement: Placement, scratch: Path, command: str
    ) -> None:
        import ray

        self._config, self._options, self._placement, self._scratch = config, options, placement, scratch
        self._command = command
        self._head = HeadWatch(ray.get_runtime_context().gcs_address)
        self._coordinator: Any = ray.remote(RunCoordinator).options(num_cpus=0).remote()
        self._failure: BaseException | None = None
        self._over = threading.Event()
        self._starts, self._reported, self._step = 1, time.monotonic(), -1

    def run(self) -> Mapping[str, Any]:
        """Wait for the run's end; a stop that is asked for meanwhile is handed to its processes."""
        import ray

        # not in the main thread: there Ray Train would take Ctrl-C and end the processes without a checkpoint
        threading.Thread(target=self._fit, name="lookonce-fit", daemon=True).start()
        try:
            while not self._over.wait(1.0):  # a join that Ctrl-C interrupts takes the thread for dead (Python 3.11)
                self._head.check()
                self._report()
        except KeyboardInterrupt as stop:
            with unhurried():  # it is bounded
                ray.get(self._coordinator.request_stop.remote())
                self._over.wait(STOP_PATIENCE)
            raise Interrupted("stopped") from stop
        end: Mapping[str, Any] | None = ray.get(self._coordinator.end.remote())
        if end is None:
            raise self._reason() from self._failure
        if "error" in end:
            raise end["error"]
        summary: Mapping[str, Any] = end["summary"]
        return summary

    def _fit(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        from lookonce.clusters.training.process import train_process

        placement = self._placement
        try:
            TorchTrainer(
                train_process,
                train_loop_config={"config": self._config, "coordinator": self._coordinator, "command": self._command},
                torch_config=TorchConfig(
                    backend="cpu:gloo,cuda:nccl" if placement.gpus else "gloo", timeout_s=int(TIMEOUT.total_seconds())
                ),
                scaling_config=ScalingConfig(
                    num_workers=placement.processes,
                    use_gpu=placement.gpus > 0,
                    resources_per_worker={"CPU": placement.cpus},
                    placement_strategy=placement.strategy,
                ),
                run_config=RunConfig(
                    name=self._scratch.name,
                    storage_path=str(self._scratch.parent),
                    failure_config=FailureConfig(
                        max_failures=self._options.max_restarts, controller_failure_limit=self._options.max_restarts
                    ),
                ),
            ).fit()
        except BaseException as failure:  # told in the main thread
            self._failure = failure
        finally:
            self._over.set()

    def _report(self) -> None:
        import ray

        now = time.monotonic()
        if now - self._reported < REPORT_INTERVAL:
            return
        self._reported = now
        starts = cast("int", ray.get(self._coordinator.starts.remote()))
        if starts > self._starts:
            self._starts = starts
            self._say(f"a process was lost; start {starts} goes on from the newest checkpoint")
        lines = read_metrics(self._config.out / "metrics.jsonl")
        if lines and lines[-1]["step"] != self._step:
            last, self._step = lines[-1], lines[-1]["step"]
            self._say(f"step {last['step']}, loss {last['loss']:.4f}, {last['images_per_second']:.0f} images/s")

    @staticmethod
    def _say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def _reason(self) -> LookonceError:
        """What is to blame for an end that no process of the run has told."""
        failures = dict(getattr(self._failure, "worker_failures", {}))
        causes = [getattr(failure, "_base_exc", failure) for failure in failures.values()]
        own = [cause for cause in causes if not isinstance(cause, DistributedError)]
        if own and isinstance(own[0], LookonceError):
            return own[0]
        reason = " ".join(str((own or causes or [self._failure])[0]).split())
        return DistributedError(
            f"{self._config.out}: the run lost processes more than {self._options.max_restarts} times "
            f"(--max-restarts), the last time by: {reason[:300]}. Look for memory or driver trouble on the machines, "
            "then run the same command again: it goes on from the newest checkpoint"
        )


@contextlib.contextmanager
def _scratch(run: Path) -> Any:
    """Where Ray Train keeps its own notes: a folder that all machines see, gone afterwards."""
    new = not run.exists()
    scratch = run / f"ray{TEMPORARY_MARK}{uuid.uuid4().hex[:12]}"
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # a run that was refused leaves nothing behind
            if new:
                run.rmdir()


def _with_absolute_paths(config: TrainingConfig) -> TrainingConfig:
    """Processes of Ray Train have a working directory of their own."""
    images, resume = (
        str(Path(value).absolute()) if value is not None and Path(value).exists() else value
        for value in (config.images, config.resume)
    )
    shards = tuple(path.absolute() for path in config.shards)
    return replace(config, shards=shards, out=config.out.absolute(), images=images, resume=str(resume))
