"""What the stages of ``gpu.py`` share: a result that is on disk after every number, and the time that is left."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import end_with_parent, machine, versions
from PIL import Image

WHOLE = "whole"


class GrowingResult:
    """A benchmark's result as JSON, written again by rename after every number; a killed stage keeps its numbers.

    Args:
        name: of the stage.
        file: where it is written.
        quick: whether sizes are too small for the numbers to mean anything, as with ``--dry``.
    """

    def __init__(self, name: str, file: Path, *, quick: bool) -> None:
        self._file, self._started = file, time.perf_counter()
        self.document: dict[str, Any] = {
            "name": f"gpu_{name}",
            "quick": quick,
            "state": "running",
            "seconds": 0.0,
            "machine": machine(),
            "versions": versions(),
            "ratios": {},
            "raw": {},
        }
        self._write()

    def ratio(self, name: str, value: float) -> None:
        """Add or replace a ratio."""
        self.document["ratios"][name] = round(value, 4)
        self._write()

    def raw(self, name: str, value: Any) -> None:
        """Add or replace a raw value, from which ratios are computed."""
        self.document["raw"][name] = value
        print(f"{name}: {value}", flush=True)
        self._write()

    def end(self, state: str) -> None:
        """Record how the stage ended: ``whole``, or what went wrong."""
        self.document["state"] = state
        self._write()

    def _write(self) -> None:
        self.document["seconds"] = round(time.perf_counter() - self._started, 1)
        replace_json(self._file, self.document)


def replace_json(file: Path, document: Any) -> None:
    """Write a document by rename, so that a reader finds the complete old one or the complete new one."""
    beside = file.with_suffix(".tmp")
    beside.write_text(json.dumps(document, indent=1) + "\n")
    beside.replace(file)


@dataclass(frozen=True)
class Stage:
    """Options of a stage, and its result."""

    result: GrowingResult
    dry: bool
    work: Path
    """Folder for weights, images, caches and runs, in memory if there is enough; removed by ``gpu.py``."""
    disk: Path
    """Folder on a disk, to measure writing; removed by ``gpu.py``."""
    deadline: float
    """Of ``time.monotonic()``."""

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def attempt(self, name: str, seconds: float, measure: Callable[[], Any]) -> None:
        """Measure something optional if so many seconds are left; record why it fails."""
        if self.left < seconds:
            self.result.raw(f"left out: {name}", f"{self.left:.0f} s left, takes about {seconds:.0f}")
            return
        try:
            measure()
        except Exception as error:  # a compiler, kernel or driver may fail; later numbers are still useful
            self.result.raw(f"failed: {name}", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")


@contextlib.contextmanager
def stage(name: str) -> Generator[Stage]:
    """The stage that this process runs; when the block ends, its result has the state ``whole`` or what went wrong."""
    parser = argparse.ArgumentParser(description=f"The stage '{name}' of gpu.py, which starts it.")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--disk", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    end_with_parent()
    result = GrowingResult(name, options.json, quick=options.dry)
    faulthandler.dump_traceback_later(max(1.0, options.seconds - 2.0))  # to gpu.log: where the stage was cut off
    deadline = time.monotonic() + options.seconds
    try:
        yield Stage(result, options.dry, options.work, options.disk, deadline)
    except Exception as error:
        result.end(f"failed: {type(error).__name__}: {' '.join(str(error).split())[:500]}")
        raise
    failed = [key for key in result.document["raw"] if key.startswith("failed: ")]
    if result.document["state"] == "running":
        result.end(WHOLE if not failed else ", ".join(failed))
    sys.exit(result.document["state"] != WHOLE)


def generated_images(folder: Path, count: int) -> Path:
    """Small JPEGs of random colours in two class folders, for ``--dry``."""
    generator = np.random.default_rng(0)
    for number in range(count):
        file = folder / f"class{number % 2}" / f"{number:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(file)
    return folder
