"""What a run reports: a line of metrics.jsonl a logged step, the same to TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from lookonce.shared.atomic import atomic_file, storage_error


class MetricsLog:
    """Appends metrics to ``metrics.jsonl`` and TensorBoard events.

    Args:
        folder: the run's folder.
        first_step: lines of this step and later ones, left by a run that was cut off, are removed, so that the file
            ends as an uninterrupted run's would.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        self._path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(self._path) if line["step"] < first_step]
        with atomic_file(self._path) as file:
            file.writelines(_line(metrics).encode() for metrics in kept)
        self._handle = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append one line; ``metrics["step"]`` is the 0-based step.

        Raises:
            StorageError: the operating system refused.
        """
        try:
            self._handle.write(_line(metrics))
            self._handle.flush()
        except OSError as error:
            raise storage_error(error, self._path, "writing metrics") from error
        for name, value in metrics.items():
            if isinstance(value, Mapping):
                for part, number in value.items():
                    self._board.add_scalar(f"{name}/{part}", number, metrics["step"])
            elif name != "step":
                self._board.add_scalar(name, value, metrics["step"])

    def close(self) -> None:
        """Flush and close."""
        self._handle.close()
        self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a metrics file; a last line cut off by a crash is left out."""
    lines = []
    if path.is_file():
        for text in path.read_text("utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines


def _line(metrics: Mapping[str, Any]) -> str:
    return json.dumps(metrics) + "\n"
