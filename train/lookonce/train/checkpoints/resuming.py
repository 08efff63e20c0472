"""Finds the checkpoint that a run resumes from, and refuses checkpoints of other runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from lookonce.shared.config_values import marked_fields
from lookonce.shared.errors import CheckpointError, UsageError
from lookonce.storage_schemas.recipe import document_differences
from lookonce.train.batch_config import MAY_CHANGE
from lookonce.train.checkpoints.checkpoint_file import Checkpoint, checkpoints_in
from lookonce.train.config import TrainingConfig

LATER_RECORDED = frozenset({"cache_precisions"})
"""Parts of a data document that other parts imply; checkpoints of earlier versions do not contain them."""


def check_continues(path: Path, checkpoint: Checkpoint, config: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another run; ``lengthening`` checks the number of epochs.

    Raises:
        CheckpointError: config or data differ; the message lists the fields with both values.
    """
    implied = {name: data[name] for name in LATER_RECORDED & data.keys()}
    there, here = {**checkpoint.config, "data": {**implied, **checkpoint.data}}, {**config, "data": data}
    listed = _differences(there, here, free=frozenset({"epochs"}))
    if listed:
        raise CheckpointError(
            f"{path}: this checkpoint belongs to another run ({listed}); use the arguments of that run, "
            "or another --out for a new run"
        )


def check_replaceable(run: Path, config: Mapping[str, Any]) -> None:
    """Refuse to overwrite the student of another run whose checkpoints are gone.

    Raises:
        CheckpointError: the configs differ; the message lists the fields with both values.
    """
    if not (run / "student.safetensors").exists():
        return
    try:
        there = json.loads((run / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{run}: contains a student, no checkpoint, and a config.json that cannot be read ({error}); choose "
            "another --out for a new run"
        ) from error
    listed = _differences(there, config)
    if listed:
        raise CheckpointError(
            f"{run}: contains the student of another run ({listed}) and no checkpoint; choose another --out for a new "
            "run"
        )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], free: frozenset[str] = frozenset()) -> str:
    """Differences between two runs that change their numbers, as text; empty if there are none."""
    ours, theirs = (
        {name: value for name, value in {**_DEFAULTS, **one}.items() if name not in _MAY_CHANGE | _NOTES | free}
        for one in (here, there)
    )
    ours, theirs = (json.loads(json.dumps(one)) for one in (ours, theirs))  # JSON has no tuples
    differences = document_differences(theirs, ours)
    return "; ".join(f"{name}: the run has {old!r}, now {new!r}" for name, old, new in differences)


_MAY_CHANGE = marked_fields(TrainingConfig, MAY_CHANGE)

_NOTES = frozenset({"lengthened", "caches", "starts"})
"""Parts of a run's document that are no configuration; see ``lengthening`` and ``run_record``."""

_DEFAULTS = {field.name: field.default for field in fields(TrainingConfig) if field.default is not MISSING}
"""Values of fields that the documents of earlier versions do not contain."""


def find_checkpoint(resume: str, folder: Path) -> Path | None:
    """The checkpoint to resume from, or None to start a new run.

    Args:
        resume: ``auto``, ``never`` or a file.
        folder: the run's ``checkpoints`` folder.

    Raises:
        UsageError: ``never``, but the folder already contains a run.
    """
    present = checkpoints_in(folder)
    if resume == "auto":
        return present[-1] if present else None
    if resume == "never":
        if present or (folder.parent / "metrics.jsonl").exists():
            raise UsageError(f"{folder.parent}: contains a run already and --resume is never; choose another --out")
        return None
    return Path(resume)


def resume_again(resume: str, folder: Path) -> str:
    """``resume`` for a run that a launcher restarts: its newest checkpoint if there is one, else as given.

    Args:
        resume: as for :func:`find_checkpoint`.
        folder: the run's ``checkpoints`` folder.
    """
    return "auto" if resume == "never" or checkpoints_in(folder) else resume
