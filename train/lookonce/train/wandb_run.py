"""Metrics to Weights & Biases as well, where it is installed and asked for; WANDB_MODE=offline needs no network."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookonce.shared.canonical import digest_bytes
from lookonce.shared.errors import UsageError


class WandbRun:
    """One run of a project; going on with a run goes on with it there.

    Args:
        project: its name.
        folder: the run's folder, which names the run.
        config: shown beside the metrics.

    Raises:
        UsageError: wandb is not installed.
    """

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise UsageError(
                "--wandb: Weights & Biases is not installed; pip install 'lookonce[wandb]', or leave --wandb out"
            ) from error
        identity = digest_bytes(str(folder.resolve()).encode()).removeprefix("sha256:")[:16]
        self._run: Any = wandb.init(
            project=project, name=folder.name, id=identity, resume="allow", dir=str(folder), config=dict(config)
        )
        self._run.define_metric("*", step_metric="step")  # lines of a resumed run may lie behind those sent before

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Send one line."""
        self._run.log({**scalars, "step": step})

    def close(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()
