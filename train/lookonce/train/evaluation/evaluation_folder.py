"""The folder of an evaluation that trains: its config, its checkpoints and its result; resumable."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from lookonce.shared.errors import BusyError, CheckpointError
from lookonce.shared.files.atomic import write_json
from lookonce.shared.files.lock import exclusive_folder
from lookonce.shared.files.own_folder import has_field, require_own_folder
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
            AccessError: the operating system does not let us read it.
            BusyError: another process writes to it.
            StorageError: the operating system refused.
        """
        self._require_own()
        busy = BusyError(f"{self.root}: another evaluation writes to this folder; wait for it, or choose another --out")
        with exclusive_folder(self.root, busy):
            self._require_own()
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

    def _require_own(self) -> None:
        path = self.root / CONFIG
        if not require_own_folder(self.root, kind="an evaluation", marker=CONFIG, belongs=has_field("evaluation")):
            return
        try:
            stored = json.loads(path.read_bytes())
        except ValueError as error:
            raise CheckpointError(f"{path}: is damaged ({error}); choose another --out for a new run") from error
        self._require_same(path, stored)

    def _require_same(self, path: Path, stored: Mapping[str, Any]) -> None:
        differences = [
            (field, old, new)
            for field, old, new in document_differences(stored, self.config)
            if not any(field == free or field.startswith(f"{free}.") for free in FREE)
        ]
        if differences:
            listed = "; ".join(
                "the evaluated weights have changed since, or others are given"
                if field == "evaluated.weights_digest"
                else f"{field}: the run has {old!r}, now {new!r}"
                for field, old, new in differences
            )
            raise CheckpointError(
                f"{path}: belongs to another evaluation ({listed}); use the run's own arguments, or another --out for "
                "a new run"
            )
