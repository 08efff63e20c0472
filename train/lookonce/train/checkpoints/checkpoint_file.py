"""Checkpoint files: written by rename, read without running code."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from lookonce.shared.errors import CheckpointError
from lookonce.shared.faults.os_errors import ABSENT, access_error
from lookonce.shared.files.atomic import TEMPORARY_MARK, atomic_file, write_json
from lookonce.weights.kinds import foreign_kind, is_safetensors

VERSION = 2
KEPT = 2
"""Number of checkpoints that are kept; older ones are deleted once a newer one is complete."""

_NAME = re.compile(r"step-(\d{9})(\.pt)?")
_DESCRIPTION = "checkpoint.json"
"""File of a sharded checkpoint that contains everything except the state."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that the rest of a run depends on; random numbers are functions of the step and need no state."""

    step: int
    """Steps done."""
    config: Mapping[str, Any]
    """The run's config document."""
    data: Mapping[str, Any]
    """What the samples of every step depend on: caches, rows, versions of order and masks."""
    state: Mapping[str, Any]
    """State dicts of student, alignments and optimizer; empty for a sharded checkpoint."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write ``step-000000123.pt`` by rename, then delete what it supersedes (see ``delete_superseded``).

    Raises:
        StorageError: the operating system refused; older checkpoints are untouched.
    """
    path = folder / f"step-{checkpoint.step:09d}.pt"
    content = {"version": VERSION, **{name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__}}
    with atomic_file(path) as handle:
        _save_or_os_error(content, handle)
    delete_superseded(path)
    return path


def delete_superseded(newest: Path) -> None:
    """Keep the newest two checkpoints up to the one just written; delete older ones and temporary files."""
    here = checkpoints_in(newest.parent)
    superseded = here[: max(0, here.index(newest) + 1 - KEPT)]  # later ones stay if an older one was resumed
    for old in [*superseded, *newest.parent.glob(f"step-*{TEMPORARY_MARK}*")]:
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)


def write_description(folder: Path, checkpoint: Checkpoint) -> None:
    """Write everything of a sharded checkpoint except its state.

    Raises:
        StorageError: the operating system refused.
    """
    description = {"step": checkpoint.step, "config": dict(checkpoint.config), "data": dict(checkpoint.data)}
    write_json(folder / _DESCRIPTION, {"version": VERSION, **description})


def _save_or_os_error(content: Mapping[str, Any], handle: BinaryIO) -> None:
    try:
        torch.save(content, handle)
    except RuntimeError as error:  # torch raises its own error while it handles the OSError
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoints of a run, files or folders, oldest first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU, without the state for a sharded one; only plain values are accepted.

    Raises:
        CheckpointError: it is missing, damaged, of another version, or something else, which the message names.
        AccessError: the operating system does not let it be read.
    """
    try:
        content = _content(path)
        version = content.pop("version")
        if version != VERSION:
            raise CheckpointError(f"{path}: checkpoint version {version}, this lookonce reads version {VERSION}")
        checkpoint = Checkpoint(**content)
        for name, kind in {"step": int, "config": Mapping, "data": Mapping, "state": Mapping}.items():
            if not isinstance(found := getattr(checkpoint, name), kind):
                raise TypeError(f"{name} is of type {type(found).__name__}")
        return checkpoint
    except (CheckpointError, MemoryError):
        raise
    except OSError as error:
        if isinstance(error, ABSENT) or error.errno == errno.EINVAL:  # torch seeks before the start of a short file
            raise _unusable(path, error) from error
        raise access_error(error, path) from error
    except Exception as error:  # torch.load raises many types for damaged and foreign files
        raise _unusable(path, error) from error


def _content(path: Path) -> dict[str, Any]:
    if path.is_dir():
        content = {**json.loads((path / _DESCRIPTION).read_text("utf-8")), "state": {}}
        (path / ".metadata").stat()  # without it, torch prints two tracebacks
        return content
    with path.open("rb") as file:
        loaded: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return loaded


def _unusable(path: Path, error: Exception) -> CheckpointError:
    if not path.exists():
        return CheckpointError(f"{path}: no such checkpoint; check --resume")
    if _NAME.fullmatch(path.name):  # only checkpoints have such a name
        reason = " ".join(str(error).split())[:200]
        return CheckpointError(
            f"{path}: cannot be read as a checkpoint ({reason}): it is damaged or incomplete; move it elsewhere to "
            "resume from the one before it (or, with train-student, give that one with --resume FILE)"
        )
    return CheckpointError(
        f"{path}: is no checkpoint of train-student: it is {_what_it_is(path)}; give --resume a file or folder of "
        "RUN/checkpoints, such as step-000000100.pt, or leave it out to resume from the newest in --out"
    )


def _what_it_is(path: Path) -> str:
    """Describe an existing file or folder that is no checkpoint."""
    if path.is_dir():
        return _what_folder(path)
    foreign = foreign_kind(path)
    if foreign is not None:
        return foreign.kind
    with path.open("rb") as file:
        head = file.read(8)
        header = file.read(int.from_bytes(head, "little")) if is_safetensors(head + file.peek(1)[:1]) else None
    if header is None:
        return "a file of torch.save by another program, or weights alone"
    if b'"student"' in header:
        return "the student of a finished run, weights alone (--init-weights starts a new run from them)"
    return "a safetensors file, weights alone"


def _what_folder(path: Path) -> str:
    if (path / "manifest.json").exists():
        return "a feature cache"
    found = sorted((path if path.name == "checkpoints" else path / "checkpoints").glob("step-*"))
    if found:
        return f"the folder of a run, whose newest checkpoint is {found[-1]}"
    return "a folder without checkpoints" if any(path.iterdir()) else "an empty folder"
