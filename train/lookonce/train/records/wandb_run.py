"""Sends metrics to Weights & Biases (``--wandb``); WANDB_MODE=offline needs no network."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookonce.shared.canonical import digest_bytes
from lookonce.shared.errors import UsageError


def require_wandb() -> Any:
    """The wandb library.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise UsageError(
            "--wandb: Weights & Biases is not installed; pip install 'lookonce[wandb]', or leave --wandb out"
        ) from error


class WandbRun:
    """One run of a W&B project; a resumed run continues it.

    Args:
        project: name of the project.
        folder: the run's folder, whose name is that of the W&B run.
        config: configuration, shown beside the metrics.

    Raises:
        UsageError: wandb is not installed.
    """

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any]) -> None:
        wandb = require_wandb()
        identity = digest_bytes(str(folder.resolve()).encode()).removeprefix("sha256:")[:16]
        self._run: Any = wandb.init(
            project=project, name=folder.name, id=identity, resume="allow", dir=str(folder), config=dict(config)
        )
        self._run.define_metric("*", step_metric="step")  # a resumed run may repeat steps

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Send the numbers of one line."""
        self._run.log({**scalars, "step": step})

    def close(self) -> None:
        """Wait until all lines are sent."""
        self._run.finish()
