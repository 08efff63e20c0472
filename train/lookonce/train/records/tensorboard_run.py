"""Writes metrics, pictures and hyper-parameters of a run for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter


class TensorBoardRun:
    """Event files in a run's ``tensorboard`` folder.

    Args:
        folder: the run's folder.
        first_step: TensorBoard hides what earlier starts wrote for this step and later ones.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Log the numbers of one line, by name."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def write_configuration(self, document: Mapping[str, Any]) -> None:
        """Write a run's config document: single values for the HPARAMS tab, which compares runs, and all as text."""
        values = {
            name: value for name, value in sorted(document.items()) if isinstance(value, bool | int | float | str)
        }
        experiment, session, _ended = hparams(values, {"loss": 0.0})  # the metric is the scalar "loss"
        file = self._writer._get_file_writer()  # pyright: ignore[reportPrivateUsage]  # add_hparams makes another run
        for summary in (experiment, session):
            file.add_summary(summary)
        text = json.dumps(dict(document), indent=2, sort_keys=True)
        self._writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))  # as a code block

    def write_image(self, tag: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Write a picture, uint8 (height, width, 3)."""
        self._writer.add_image(tag, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()
