"""One process of a training run, inside a Ray Train worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

import ray

from lookonce.shared.errors import DistributedError, EndedElsewhereError, LookonceError
from lookonce.shared.faults.machine_errors import machine_error
from lookonce.train.config import TrainingConfig
from lookonce.train.distributed.world import RESTART_COUNT
from lookonce.train.run import train_student

POLL_INTERVAL = 1.0
"""Seconds between two checks for a requested stop."""


def train_process(arguments: Mapping[str, Any]) -> None:
    """Run one process: raises errors after which a restart can help; reports all other ends to the coordinator.

    Args:
        arguments: ``config``, ``coordinator`` and the ``command`` line.

    Raises:
        DistributedError: another process is gone; Ray Train restarts the run.
    """
    config: TrainingConfig = arguments["config"]
    coordinator, is_leader = arguments["coordinator"], os.environ["RANK"] == "0"
    # only the leading process, which finds the checkpoint to resume from, needs the count
    os.environ[RESTART_COUNT] = str(ray.get(coordinator.count_start.remote())) if is_leader else "0"
    stop, ended = threading.Event(), threading.Event()

    def watch_for_stop() -> None:
        while not ended.wait(POLL_INTERVAL):
            if ray.get(coordinator.stop_requested.remote()):
                stop.set()

    if is_leader:
        threading.Thread(target=watch_for_stop, name="lookonce-stop", daemon=True).start()
    end: Mapping[str, Any]
    try:
        summary = train_student(config, show_progress=False, stop_asked=stop.is_set, command=arguments["command"])
        end = {"summary": summary}
    except EndedElsewhereError as error:
        end = {"error": error.cause or error}
    except DistributedError:
        raise
    except LookonceError as error:
        end = {"error": error}
    except Exception as error:
        raise machine_error(error, config) or error from error
    finally:
        ended.set()
    if is_leader:
        ray.get(coordinator.finish.remote(end))
