"""What runs inside a Ray Train worker: one process of a training run."""

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
"""Seconds between two looks whether the run should stop."""


def train_process(arguments: Mapping[str, Any]) -> None:
    """One process, between two losses of processes: raises what another start may mend, tells all else at the desk.

    Args:
        arguments: ``config``, ``coordinator`` and the ``command`` that was typed.

    Raises:
        DistributedError: another process is gone; Ray Train starts the run again.
    """
    config: TrainingConfig = arguments["config"]
    coordinator, is_leader = arguments["coordinator"], os.environ["RANK"] == "0"
    # each process is new in each start, so only the leading one, which looks for checkpoints, has to know
    os.environ[RESTART_COUNT] = str(ray.get(coordinator.count_start.remote())) if is_leader else "0"
    stop, ended = threading.Event(), threading.Event()

    def look() -> None:
        while not ended.wait(POLL_INTERVAL):
            if ray.get(coordinator.stop_requested.remote()):
                stop.set()

    if is_leader:
        threading.Thread(target=look, name="lookonce-desk", daemon=True).start()
    end: Mapping[str, Any]
    try:
        end = {
            "summary": train_student(
                config, show_progress=False, stop_asked=stop.is_set, command=arguments["command"]
            ).document()
        }
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
