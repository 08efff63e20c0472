"""Checkpoints: written by rename, read without running code, refused when they belong to another run."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import torch

from lookonce.shared.config_values import marked_fields
from lookonce.shared.errors import CheckpointError, UsageError
from lookonce.shared.faults.os_errors import ABSENT, access_error
from lookonce.shared.files.atomic import TEMPORARY_MARK, atomic_file, write_json
from lookonce.storage_schemas.recipe import document_differences
from lookonce.train.checkpoints.foreign_file import what_it_is
from lookonce.train.config import MAY_CHANGE, TrainingConfig

VERSION = 2
KEPT = 2
"""How many checkpoints stay; older ones are deleted once a newer one is whole."""

_NAME = re.compile(r"step-(\d{9})(\.pt)?")
_DESCRIPTION = "checkpoint.json"
"""In a checkpoint that is a folder of pieces: all but the state."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that decides the rest of a run; random numbers are functions of the step and need no state."""

    step: int
    """Steps done."""
    config: Mapping[str, Any]
    """The run's config document."""
    data: Mapping[str, Any]
    """What decides the samples of every step: cache, rows, versions of order and masks."""
    state: Mapping[str, Any]
    """State dicts of student, alignment and optimizer; empty where the checkpoint is a folder of pieces."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write ``step-000000123.pt`` by rename, then delete all before it but one, and what crashed writers left.

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
    """Delete all checkpoints before the one just written but one, and what crashed writers left."""
    here = checkpoints_in(newest.parent)
    superseded = here[: max(0, here.index(newest) + 1 - KEPT)]  # later ones stay, where an older one was resumed
    for old in [*superseded, *newest.parent.glob(f"step-*{TEMPORARY_MARK}*")]:
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)


def write_description(folder: Path, checkpoint: Checkpoint) -> None:
    """Write what a folder of pieces needs beside them.

    Raises:
        StorageError: the operating system refused.
    """
    described = {"step": checkpoint.step, "config": dict(checkpoint.config), "data": dict(checkpoint.data)}
    write_json(folder / _DESCRIPTION, {"version": VERSION, **described})


def _save_or_os_error(content: Mapping[str, Any], handle: BinaryIO) -> None:
    try:
        torch.save(content, handle)
    except RuntimeError as error:  # torch's writer hides the operating system's reason behind its own bookkeeping
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoints of a run, files or folders of pieces, oldest first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU, of a folder of pieces all but the state; only plain values are accepted.

    Raises:
        CheckpointError: there is none, it is something else (which is named) or damaged, or was written by another
            version.
        AccessError: the operating system does not give it out.
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
        if (
            isinstance(error, ABSENT) or error.errno == errno.EINVAL
        ):  # torch looks before the start of what is cut short
            raise _unusable(path, error) from error
        raise access_error(error, path) from error
    except Exception as error:  # torch.load raises many kinds for damaged or foreign files
        raise _unusable(path, error) from error


def _content(path: Path) -> dict[str, Any]:
    if path.is_dir():
        content = {**json.loads((path / _DESCRIPTION).read_text("utf-8")), "state": {}}
        (path / ".metadata").stat()  # torch misses it with two tracebacks on standard error
        return content
    with path.open("rb") as file:
        loaded: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return loaded


def _unusable(path: Path, error: Exception) -> CheckpointError:
    if not path.exists():
        return CheckpointError(f"{path}: no such checkpoint; check --resume")
    if _NAME.fullmatch(path.name):  # a name that only checkpoints have
        reason = " ".join(str(error).split())[:200]
        return CheckpointError(
            f"{path}: cannot be read as a checkpoint ({reason}): it is damaged or incomplete; move it elsewhere to go "
            "on from the one before (or, with train-student, give that one by --resume FILE)"
        )
    return CheckpointError(
        f"{path}: is no checkpoint of train-student: it is {what_it_is(path)}; give --resume a file or folder of "
        "RUN/checkpoints, such as step-000000100.pt, or leave it out: the newest of --out is taken"
    )


LATER_NOTED = frozenset({"cache_precisions"})
"""What says of a run's data nothing new, but reads better; checkpoints of earlier versions do not hold it."""


def check_continues(path: Path, checkpoint: Checkpoint, config: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another run; the number of epochs may differ, which ``lengthening`` looks at.

    Raises:
        CheckpointError: config or data differ; the message lists the fields with both values.
    """
    unnoted = {name: data[name] for name in LATER_NOTED & data.keys()}
    there, here = {**checkpoint.config, "data": {**unnoted, **checkpoint.data}}, {**config, "data": data}
    listed = _differences(there, here, free=frozenset({"epochs"}))
    if listed:
        raise CheckpointError(
            f"{path}: this checkpoint belongs to another run ({listed}); use the run's own arguments, "
            "or another --out for a new run"
        )


def check_replaceable(run: Path, config: Mapping[str, Any]) -> None:
    """Refuse to train anew where the student of another run lies, whose checkpoints are gone.

    Raises:
        CheckpointError: the configs differ; the message lists the fields with both values.
    """
    if not (run / "student.safetensors").exists():
        return
    try:
        there = json.loads((run / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{run}: holds a student, no checkpoint, and a config.json that cannot be read ({error}); choose another "
            "--out for a new run"
        ) from error
    listed = _differences(there, config)
    if listed:
        raise CheckpointError(
            f"{run}: holds the student of another run ({listed}) and no checkpoint; choose another --out for a new run"
        )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], free: frozenset[str] = frozenset()) -> str:
    """What decides the numbers of two runs and differs; "" where nothing does."""
    ours, theirs = (
        {name: value for name, value in {**_DEFAULTS, **one}.items() if name not in _MAY_CHANGE | _NOTES | free}
        for one in (here, there)
    )
    ours, theirs = (json.loads(json.dumps(one)) for one in (ours, theirs))  # a folder of pieces knows no tuples
    differences = document_differences(theirs, ours)
    return "; ".join(f"{name}: the run has {old!r}, now {new!r}" for name, old, new in differences)


_MAY_CHANGE = marked_fields(TrainingConfig, MAY_CHANGE)

_NOTES = frozenset({"lengthened", "caches", "starts"})
"""What documents of runs hold beside the configuration; see ``lengthening`` and ``run_record``."""

_DEFAULTS = {field.name: field.default for field in fields(TrainingConfig) if field.default is not MISSING}
"""What a run had of fields that its lookonce did not know yet."""


def find_checkpoint(resume: str, folder: Path) -> Path | None:
    """The checkpoint to go on from, or None to start.

    Args:
        resume: ``auto``, ``never`` or a file.
        folder: the run's ``checkpoints`` folder.

    Raises:
        UsageError: ``never``, but the run's folder already holds a run.
    """
    present = checkpoints_in(folder)
    if resume == "auto":
        return present[-1] if present else None
    if resume == "never":
        if present or (folder.parent / "metrics.jsonl").exists():
            raise UsageError(f"{folder.parent}: holds a run already and --resume is never; choose another --out")
        return None
    return Path(resume)


def resume_again(resume: str, folder: Path) -> str:
    """What a run that is started again goes on from: its newest checkpoint, or what it was told while it has none.

    Args:
        resume: as for :func:`find_checkpoint`.
        folder: the run's ``checkpoints`` folder.
    """
    return "auto" if resume == "never" or checkpoints_in(folder) else resume
