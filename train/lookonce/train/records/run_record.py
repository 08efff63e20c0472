"""``config.json`` of a run: its configuration, the caches it reads, and each start's command and library versions."""

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
from lookonce.train.data.joined_caches import JoinedCaches

LIBRARIES = ("lookonce", "torch", "timm", "numpy", "zarr", "safetensors")
"""Whose versions are recorded, beside Python's."""


def describe_caches(caches: JoinedCaches) -> list[dict[str, Any]]:
    """What is recorded of each cache: where it lay, its fingerprint, the digest of its encoding, and its teacher."""
    return [
        {
            "path": str(reader.root.absolute()),
            "fingerprint": reader.manifest.recipe.fingerprint,
            "encoding": reader.manifest.encoding.digest,
            "teacher": reader.manifest.recipe.teacher.name,
            "teacher_weights_digest": reader.manifest.recipe.teacher.weights_digest,
        }
        for reader in caches.readers
    ]


def record_start(
    run: Path, document: Mapping[str, Any], caches: JoinedCaches, *, step: int, processes: int, command: str | None
) -> None:
    """Write ``config.json``; starts that led to the present one stay listed.

    Args:
        run: the run's folder.
        document: the resolved configuration.
        caches: those of the run.
        step: steps done before this start.
        processes: of this start.
        command: as typed; None for what Python was started with.

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
    starts = [earlier for earlier in _starts(path) if earlier["from_step"] < step]  # later ones were thrown away
    write_json(path, {**document, "caches": describe_caches(caches), "starts": [*starts, start]})


def _starts(path: Path) -> list[dict[str, Any]]:
    """Those that an earlier start has left; none where the file is damaged, of another version, or not there."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        listed = json.loads(path.read_bytes()).get("starts")
        if isinstance(listed, list):
            return [one for one in listed if isinstance(one, dict) and isinstance(one.get("from_step"), int)]
    return []
