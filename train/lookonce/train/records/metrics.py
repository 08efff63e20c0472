"""Metrics of a run: each logged step is a line of metrics.jsonl, and goes to TensorBoard and W&B."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.faults.os_errors import storage_error
from lookonce.shared.files.atomic import atomic_file
from lookonce.train.records.tensorboard_run import TensorBoardRun


class Tracker(Protocol):
    """Another destination for metrics."""

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Log the numbers of one line, by name."""
        ...

    def close(self) -> None:
        """End this start of the run."""
        ...


class MetricsLog:
    """Appends metrics to ``metrics.jsonl`` and TensorBoard events.

    Each line of the file gets ``time`` (UTC, ISO 8601) and ``elapsed_seconds`` (since the run's first step, without the
    time between two starts).

    Args:
        folder: the run's folder.
        first_step: lines of this step and later ones, left by an interrupted start, are removed, so that the file is
            that of an uninterrupted run.
        tracker: another destination, or None.
    """

    def __init__(self, folder: Path, *, first_step: int, tracker: Tracker | None = None) -> None:
        self._tracker = tracker
        self._path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(self._path) if line["step"] < first_step]
        self._began = time.monotonic() - (_elapsed(kept[-1]) if kept else 0.0)
        with atomic_file(self._path) as file:
            file.writelines(_line(metrics).encode() for metrics in kept)
        try:
            self._handle = self._path.open("a", encoding="utf-8")
            self._board = TensorBoardRun(folder, first_step=first_step)
        except OSError as error:
            raise storage_error(error, folder, "opening the run's logs") from error

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append one line; ``metrics["step"]`` is the 0-based step.

        Raises:
            StorageError: the operating system refused.
        """
        when = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "elapsed_seconds": round(time.monotonic() - self._began, 3),
        }
        scalars = dict(_scalars(metrics))
        try:
            self._handle.write(_line({**metrics, **when}))
            self._handle.flush()
            self._board.log(scalars, metrics["step"])
            if self._tracker is not None:
                self._tracker.log(scalars, metrics["step"])
        except OSError as error:
            raise storage_error(error, self._path, "writing metrics") from error

    def write_configuration(self, document: Mapping[str, Any]) -> None:
        """Write a run's config document to TensorBoard.

        Raises:
            StorageError: the operating system refused.
        """
        try:
            self._board.write_configuration(document)
        except OSError as error:
            raise storage_error(error, self._path.parent, "writing the configuration for TensorBoard") from error

    def write_images(self, step: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """Write pictures, by name, uint8 (height, width, 3), to TensorBoard.

        Raises:
            StorageError: the operating system refused.
        """
        try:
            for name, pixels in images.items():
                self._board.write_image(name, pixels, step)
        except OSError as error:
            raise storage_error(error, self._path.parent, "writing pictures for TensorBoard") from error

    def close(self) -> None:
        """Flush and close; lines are flushed when they are written, so a failure here loses nothing."""
        with contextlib.suppress(OSError):
            self._handle.close()
            self._board.close()
        if self._tracker is not None:
            self._tracker.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Complete lines of a metrics file; skips damaged ones, such as one that a crash truncated."""
    lines = []
    if path.is_file():
        for text in path.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict) and isinstance(line.get("step"), int):
                    lines.append(line)
    return lines


def _elapsed(line: Mapping[str, Any]) -> float:
    """``elapsed_seconds`` of a line; 0 for lines of earlier versions and lines changed by hand."""
    seconds = line.get("elapsed_seconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def _scalars(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{part}", number) for part, number in value.items())
        elif name != "step":
            yield name, value


def _line(metrics: Mapping[str, Any]) -> str:
    return json.dumps(metrics) + "\n"
