"""Metrics to Weights & Biases as well, where it is installed and asked for; WANDB_MODE=offline needs no network."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookonce.shared.canonical import digest_bytes
from lookonce.shared.errors import UsageError


def require_wandb() -> Any:
    """The library.

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
    """One run of a project; a resumed run is resumed there.

    Args:
        project: its name.
        folder: the run's folder, which names the run.
        config: shown beside the metrics.

    Raises:
        UsageError: wandb is not installed.
    """

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any]) -> None:
        wandb = require_wandb()
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
