"""Where faults happen: synthetic images, a small random teacher, real commands, and what an undisturbed run wrote."""

from __future__ import annotations

import io
import itertools
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from lookonce.commands.feature_cache import main as feature_cache

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
from conftest import Ended, Forks, Running, files_of, receipts_of

PATIENCE = 900
"""Seconds after which a command counts as hung."""


class CannotPlayError(Exception):
    """This machine cannot play the fault; says why."""


class MissedError(Exception):
    """The fault did not happen, as when its moment came after the end: nothing was shown, play it again."""


@dataclass(frozen=True)
class Outcome:
    """What was seen of one fault."""

    seen: tuple[str, ...]
    """Exit codes, sentences, and what else is worth telling, in the order of events."""
    same: bool
    """Whether every file equals the undisturbed run's in the end, with no other file beside them."""
    verified: bool
    """Whether ``feature-cache verify --full`` ended with 0."""


class Scene:
    """A folder with everything a fault needs.

    Args:
        folder: scratch; other users must be able to look into it.
        images: how many images to make.
        seeds: how many seeds each run extracts.
    """

    def __init__(self, folder: Path, *, images: int, seeds: int) -> None:
        self.folder, self._numbers = folder, itertools.count()
        self.images = folder / "images"
        self.weights = folder / "tiny.safetensors"
        self._seeds = f"0-{seeds - 1}"
        _make_images(self.images, images)
        _make_weights(self.weights)
        self.forks = Forks(folder)
        self.whole = folder / "whole"
        started = time.monotonic()
        ended = self.run(self.whole)
        self.seconds = time.monotonic() - started
        """What an undisturbed inline run takes."""
        if ended.code:
            raise RuntimeError(f"the undisturbed run failed: {ended.err}")
        self.files = files_of(self.whole)
        self.shards = len(receipts_of(self.whole))

    def new_root(self) -> Path:
        return self.folder / f"cache-{next(self._numbers):03d}"

    def arguments(self, root: Path, **changes: Any) -> list[str]:
        """Arguments of the extraction; keyword arguments change flags."""
        flags: dict[str, Any] = {
            "teacher": "timm:vit_tiny_patch16_224",
            "teacher_weights": self.weights,
            "images": self.images,
            "out": root,
            "view_size": 32,
            "patch_size": 8,
            "shard_size": 8,
            "batch_size": 4,
            "seeds": self._seeds,
            "executor": "inline",
            **changes,
        }
        return [str(part) for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", value)]

    def start(self, root: Path, *, file_bytes: int = 0, user: int = 0, **changes: Any) -> Running:
        return self.forks.start(self.arguments(root, **changes), file_bytes=file_bytes, user=user)

    def run(self, root: Path, **changes: Any) -> Ended:
        return ended(self.start(root, **changes))

    def outcome(self, root: Path, *seen: str, whole: Path | None = None, **changes: Any) -> Outcome:
        """Run the same command again, undisturbed, and compare; the cache is deleted when it is as it should be."""
        again = self.run(root, **changes)
        wanted = files_of(whole) if whole else self.files
        same = not again.code and files_of(root) == wanted
        if again.code:
            seen = (*seen, f"run again: {told(again)}")
        verified = verify(root) == 0
        if same and verified:
            shutil.rmtree(root)
        return Outcome(seen, same, verified)


def ended(running: Running, seconds: float = PATIENCE) -> Ended:
    """Wait for a command; one that hangs is killed with all its processes, and says so."""
    process, deadline = psutil.Process(running.pid), time.monotonic() + seconds
    while process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            for one in running.family():
                one.kill()
            over = running.wait()
            return Ended(over.code, over.out, f"{over.err}\nerror: HUNG for {seconds:.0f} s, killed")
        time.sleep(0.02)
    return running.wait()


def told(over: Ended) -> str:
    """Exit code and what the user was told: the error sentence, or the first line of the summary."""
    lines = over.err.replace("\r", "\n").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if "Traceback" in over.err:
        errors.append("TRACEBACK on standard error")
    if not errors and over.code:
        errors = ["NO SENTENCE; last lines: " + " / ".join(line.strip() for line in lines[-3:])]
    return f"exit {over.code}: " + " | ".join(errors or over.out.splitlines()[:1])


def verify(root: Path) -> int:
    """Exit code of ``feature-cache verify --full``."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            feature_cache(["verify", str(root), "--full"])
        except SystemExit as stop:
            return int(stop.code or 0)


def workers_below(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Processes that hold one of our Ray actors, among these."""
    found = []
    for process in processes:
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ExtractionWorker"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def until(condition: Callable[[], Any], *, running: Running | None = None, seconds: float = PATIENCE) -> Any:
    """What the condition gives once it is true; None when the command ends or the time is over before."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline or (running is not None and is_over(running)):
            return None
        time.sleep(0.1 if time.monotonic() > deadline - seconds + 2 else 0.01)  # looking through /proc is not cheap
    return found


def happened(fault: object, otherwise: str) -> None:
    """Refuse to count a play in which the fault did not happen."""
    if not fault:
        raise MissedError(otherwise)


def is_over(running: Running) -> bool:
    return psutil.Process(running.pid).status() == psutil.STATUS_ZOMBIE


def _make_images(folder: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    for row in range(count):
        path = folder / f"class{row % 2}" / f"{row:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)


def _make_weights(path: Path) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), path)
    path.chmod(0o644)
