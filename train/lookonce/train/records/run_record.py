"""Writes ``config.json``: configuration and caches of a run, command and library versions of each start."""

from __future__ import annotations

import contextlib
import json
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lookonce.shared.files.atomic import write_json
from lookonce.train.data.caches.joined_caches import JoinedCaches

LIBRARIES = ("lookonce", "torch", "timm", "numpy", "zarr", "safetensors")
"""Libraries whose versions are recorded."""


def describe_caches(caches: JoinedCaches) -> list[dict[str, Any]]:
    """The record of each cache: path, fingerprint, digest of its encoding, teacher."""
    return [
        {
            "path": caches.place(number),
            "fingerprint": reader.manifest.recipe.fingerprint,
            "encoding": reader.manifest.encoding.digest,
            "teacher": reader.manifest.recipe.teacher.name,
            "teacher_weights_digest": reader.manifest.recipe.teacher.weights_digest,
        }
        for number, reader in enumerate(caches.readers)
    ]


def record_start(
    run: Path, document: Mapping[str, Any], caches: JoinedCaches, *, step: int, processes: int, command: str | None
) -> None:
    """Write ``config.json``; earlier starts that led to this one stay in it.

    Args:
        run: the run's folder.
        document: the resolved configuration.
        caches: caches of the run.
        step: steps done before this start.
        processes: number of processes of this start.
        command: the command as typed; None for ``sys.argv``.

    Raises:
        StorageError: the operating system refused.
    """
    start = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "from_step": step,
        "command": shlex.join(sys.argv) if command is None else command,
        "folder": str(Path.cwd()),
        "processes": processes,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }
    path = run / "config.json"
    starts = [earlier for earlier in _starts(path) if earlier["from_step"] < step]  # steps of later ones were discarded
    write_json(path, {**document, "caches": describe_caches(caches), "starts": [*starts, start]})


def _starts(path: Path) -> list[dict[str, Any]]:
    """Starts recorded in a file; none if it is damaged, of another version, or missing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        listed = json.loads(path.read_bytes()).get("starts")
        if isinstance(listed, list):
            return [one for one in listed if isinstance(one, dict) and isinstance(one.get("from_step"), int)]
    return []
