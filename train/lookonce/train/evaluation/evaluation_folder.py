"""The folder of an evaluation that trains: its config, its checkpoints and its result; resumable."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from lookonce.shared.errors import BusyError, CheckpointError, UsageError
from lookonce.shared.files.atomic import TEMPORARY_MARK, write_json
from lookonce.shared.files.lock import LOCK_FILES, exclusive_folder
from lookonce.storage_schemas.recipe import document_differences
from lookonce.train.checkpoints.checkpoint_file import Checkpoint, checkpoints_in, load_checkpoint, save_checkpoint

CONFIG, RESULTS, CHECKPOINTS = "config.json", "results.json", "checkpoints"
FREE = ("settings", "evaluated.weights", "images.folder")
"""Parts of a config that may differ when a run is resumed: weights and images are identified by digests."""


class EvaluationFolder:
    """``--out``: config.json, metrics.jsonl, checkpoints and results.json of one evaluation.

    Args:
        root: the folder.
        config: model, images and settings; all but the parts of ``FREE`` influence the result.
    """

    def __init__(self, root: Path, config: Mapping[str, Any]) -> None:
        self.root = root
        self.config: Mapping[str, Any] = json.loads(json.dumps(config))

    @contextlib.contextmanager
    def exclusive(self) -> Generator[None, None, None]:
        """Lock the folder for this process, and write its config.

        Raises:
            UsageError: the folder is a file, or contains something else.
            CheckpointError: it belongs to another evaluation; the fields that differ are named with both values.
            BusyError: another process writes to it.
            StorageError: the operating system refused.
        """
        self._require_ours()
        busy = BusyError(f"{self.root}: another evaluation writes to this folder; wait for it, or choose another --out")
        with exclusive_folder(self.root, busy):
            self._require_ours()
            write_json(self.root / CONFIG, self.config)
            yield

    def results(self) -> dict[str, Any] | None:
        """The content of ``results.json``; None while the evaluation is not finished."""
        try:
            results: dict[str, Any] = json.loads((self.root / RESULTS).read_bytes())
        except (OSError, ValueError):
            return None
        return results

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint; None if there is none.

        Raises:
            CheckpointError: it cannot be read, or belongs to another evaluation.
        """
        present = checkpoints_in(self.root / CHECKPOINTS)
        if not present:
            return None
        checkpoint = load_checkpoint(present[-1])
        self._require_same(present[-1], checkpoint.config)
        return checkpoint

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint by rename; the newest two are kept.

        Raises:
            StorageError: the operating system refused; older checkpoints are untouched.
        """
        save_checkpoint(self.root / CHECKPOINTS, Checkpoint(step=step, config=self.config, data={}, state=state))

    def _require_ours(self) -> None:
        if not self.root.is_dir():
            if self.root.exists():
                raise UsageError(f"{self.root}: is a file; --out needs a folder")
            return
        foreign = [
            path for path in self.root.iterdir() if TEMPORARY_MARK not in path.name and path.name not in LOCK_FILES
        ]
        path = self.root / CONFIG
        if not path.exists():
            if foreign:
                raise UsageError(
                    f"{self.root}: holds other files (such as {min(foreign).name}) and no {CONFIG} of an evaluation; "
                    "choose a new or empty folder for --out"
                )
            return
        try:
            there = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); choose another --out for a new run") from error
        if not isinstance(there, dict) or "evaluation" not in there:
            raise UsageError(
                f"{self.root}: holds another kind of run (its {CONFIG} is of no evaluation); "
                "choose a new or empty folder for --out"
            )
        self._require_same(path, there)

    def _require_same(self, path: Path, there: Mapping[str, Any]) -> None:
        differences = [
            (field, old, new)
            for field, old, new in document_differences(there, self.config)
            if not any(field == free or field.startswith(f"{free}.") for free in FREE)
        ]
        if differences:
            listed = "; ".join(f"{field}: the run has {old!r}, now {new!r}" for field, old, new in differences)
            raise CheckpointError(
                f"{path}: belongs to another evaluation ({listed}); use the run's own arguments, or another --out for "
                "a new run"
            )
