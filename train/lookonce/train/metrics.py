"""What a run reports: a line of metrics.jsonl a logged step, the same to TensorBoard."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lookonce.shared.atomic import atomic_file, storage_error
from lookonce.train.pictures import mixture_pixels


class Tracker(Protocol):
    """Another place for metrics."""

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Take one line's numbers by name."""
        ...

    def close(self) -> None:
        """The run ends here, for now."""
        ...


class MetricsLog:
    """Appends metrics to ``metrics.jsonl`` and TensorBoard events.

    Args:
        folder: the run's folder.
        first_step: lines of this step and later ones, left by a run that was cut off, are removed, so that the file
            ends as an uninterrupted run's would.
        tracker: where lines go as well.
    """

    def __init__(self, folder: Path, *, first_step: int, tracker: Tracker | None = None) -> None:
        self._tracker = tracker
        self._path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(self._path) if line["step"] < first_step]
        with atomic_file(self._path) as file:
            file.writelines(_line(metrics).encode() for metrics in kept)
        try:
            self._handle = self._path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
        except OSError as error:
            raise storage_error(error, folder, "opening the run's logs") from error

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append one line; ``metrics["step"]`` is the 0-based step.

        Raises:
            StorageError: the operating system refused.
        """
        try:
            self._handle.write(_line(metrics))
            self._handle.flush()
            for name, value in _scalars(metrics):
                self._board.add_scalar(name, value, metrics["step"])
            if self._tracker is not None:
                self._tracker.log(dict(_scalars(metrics)), metrics["step"])
        except OSError as error:
            raise storage_error(error, self._path, "writing metrics") from error

    def write_mixtures(self, step: int, mixtures: Sequence[Tensor | None]) -> None:
        """The mixing matrix W of each teacher, where it has one, as a TensorBoard image.

        Raises:
            StorageError: the operating system refused.
        """
        try:
            for number, mixture in enumerate(mixtures, start=1):
                if mixture is not None:
                    pixels = mixture_pixels(mixture.float().cpu().numpy())
                    self._board.add_image(f"W/{number}", pixels, step, dataformats="HWC")
        except OSError as error:
            raise storage_error(error, self._path.parent, "writing W as an image") from error

    def close(self) -> None:
        """Flush and close; every line is on its way since it was written, so nothing is lost if this fails."""
        with contextlib.suppress(OSError):
            self._handle.close()
            self._board.close()
        if self._tracker is not None:
            self._tracker.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a metrics file; one cut off by a crash, or damaged otherwise, is left out."""
    lines = []
    if path.is_file():
        for text in path.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict) and isinstance(line.get("step"), int):
                    lines.append(line)
    return lines


def _scalars(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{part}", number) for part, number in value.items())
        elif name != "step":
            yield name, value


def _line(metrics: Mapping[str, Any]) -> str:
    return json.dumps(metrics) + "\n"
