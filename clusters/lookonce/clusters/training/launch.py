"""``train-student --launcher ray``: the processes of a run on a Ray cluster, restarted if one of them is lost.

Ray Train's TorchTrainer places and connects the processes, and detects lost ones. Every start resumes from the newest
checkpoint of the run. Errors that a restart cannot solve (a damaged cache, wrong arguments) end the run.
"""

from __future__ import annotations

import contextlib
import importlib
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

import ray

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
from lookonce.train.summary import TrainingSummary

STOP_PATIENCE = 120.0
"""Seconds for the current step and a checkpoint after a requested stop."""
REPORT_INTERVAL = 15.0
"""Seconds between two lines of progress."""


def train_on_ray(config: TrainingConfig, options: LauncherOptions, command: str) -> TrainingSummary:
    """Train on a Ray cluster; all machines must see cache and run under the same path.

    Args:
        config: of the run.
        options: how its processes are started.
        command: command line, recorded in ``config.json``.

    Returns:
        The summary of the run.

    Raises:
        UsageError: Ray Train is not installed, or the cluster is too small.
        DistributedError: processes were lost more than ``max_restarts`` times.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.
        LookonceError: an error of a process of the run.
    """
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")  # Ray's 60 s are too short on a busy machine
    try:
        importlib.import_module("ray.train.torch")
    except ImportError as error:
        raise UsageError(f"--launcher ray needs Ray Train ({error}): pip install 'lookonce[ray-train]'") from error
    with ray_cluster(options.ray_address, without="torchrun"):
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        placement = place(options, machines, device=config.device)
        with _scratch(config.out.absolute()) as scratch:
            return _Launch(_with_absolute_paths(config), options, placement, scratch, command).run()


class _Launch:
    """One run, from its first start to its end, including restarts."""

    def __init__(
        self, config: TrainingConfig, options: LauncherOptions, placement: Placement, scratch: Path, command: str
    ) -> None:
        self._config, self._options, self._placement, self._scratch = config, options, placement, scratch
        self._command = command
        self._head = HeadWatch(ray.get_runtime_context().gcs_address)
        self._coordinator: Any = ray.remote(RunCoordinator).options(num_cpus=0).remote()
        self._failure: BaseException | None = None
        self._ended = threading.Event()
        self._starts, self._reported, self._step = 1, time.monotonic(), -1

    def run(self) -> TrainingSummary:
        """Wait for the end of the run; passes a requested stop on to its processes."""
        # not in the main thread, where Ray Train would handle Ctrl-C and end the processes without a checkpoint
        threading.Thread(target=self._fit, name="lookonce-fit", daemon=True).start()
        try:
            while not self._ended.wait(1.0):  # not join: Ctrl-C in it marks the thread as ended (3.11)
                self._head.check()
                self._report()
        except KeyboardInterrupt as stop:
            with unhurried():  # bounded by STOP_PATIENCE
                ray.get(self._coordinator.request_stop.remote())
                self._ended.wait(STOP_PATIENCE)
            raise Interrupted("stopped") from stop
        end: Mapping[str, Any] | None = ray.get(self._coordinator.end.remote())
        if end is None:
            raise self._reason() from self._failure
        if "error" in end:
            raise end["error"]
        summary: TrainingSummary = end["summary"]
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
        except BaseException as failure:  # raised in the main thread
            self._failure = failure
        finally:
            self._ended.set()

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._reported < REPORT_INTERVAL:
            return
        self._reported = now
        starts = cast("int", ray.get(self._coordinator.starts.remote()))
        if starts > self._starts:
            self._starts = starts
            self._say(f"a process was lost; start {starts} resumes from the newest checkpoint")
        lines = read_metrics(self._config.out / "metrics.jsonl")
        if lines and lines[-1]["step"] != self._step:
            last, self._step = lines[-1], lines[-1]["step"]
            self._say(f"step {last['step']}, loss {last['loss']:.4f}, {last['images_per_second']:.0f} images/s")

    @staticmethod
    def _say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def _reason(self) -> LookonceError:
        """The error for an end that no process of the run has reported."""
        failures = dict(getattr(self._failure, "worker_failures", {}))
        causes = [getattr(failure, "_base_exc", failure) for failure in failures.values()]
        own = [cause for cause in causes if not isinstance(cause, DistributedError)]
        if own and isinstance(own[0], LookonceError):
            return own[0]
        reason = " ".join(str((own or causes or [self._failure])[0]).split())
        return DistributedError(
            f"{self._config.out}: the run lost processes more than {self._options.max_restarts} times "
            f"(--max-restarts), the last time by: {reason[:300]}. Check the machines for memory or driver trouble, "
            "then run the same command again: it resumes from the newest checkpoint"
        )


@contextlib.contextmanager
def _scratch(run: Path) -> Any:
    """A temporary folder for Ray Train that all machines see."""
    new = not run.exists()
    scratch = run / f"ray{TEMPORARY_MARK}{uuid.uuid4().hex[:12]}"
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # a refused run leaves nothing behind
            if new:
                run.rmdir()


def _with_absolute_paths(config: TrainingConfig) -> TrainingConfig:
    """The config with absolute paths, because processes of Ray Train have another working directory."""
    images, resume = (
        str(Path(value).absolute()) if value is not None and Path(value).exists() else value
        for value in (config.images, config.resume)
    )
    shards = tuple(one.absolute() if isinstance(one, Path) else one for one in config.shards)
    cache_dir = None if config.cache_dir is None else config.cache_dir.expanduser().absolute()
    out = config.out.absolute()
    return replace(config, shards=shards, out=out, images=images, resume=str(resume), cache_dir=cache_dir)
