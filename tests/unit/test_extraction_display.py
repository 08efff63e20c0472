"""What an extraction says before it starts."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lookonce.extract.progress.display import small_disk_note


@pytest.mark.parametrize(("free", "says"), [(19_999, True), (20_000, False)])
def test_a_disk_that_is_too_small_is_mentioned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, says: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    tasks: Any = [SimpleNamespace(rows=range(6), seeds=(0, 1)), SimpleNamespace(rows=range(4), seeds=(0, 1))]
    manifest: Any = SimpleNamespace(
        arrays=[SimpleNamespace(sample_bytes=600), SimpleNamespace(sample_bytes=400)], pixels="store"
    )
    note = small_disk_note(tasks, manifest, tmp_path)
    assert (note is not None) == says
    if note is not None:
        assert note.startswith(f"this run writes about 20 kB, and 20 kB are free at {tmp_path}: it will end when")
