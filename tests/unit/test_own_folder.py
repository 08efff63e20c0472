"""The folder of --out: new, empty and own ones are taken, anything else is refused and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookonce.shared.errors import AccessError, CacheError, UsageError
from lookonce.shared.files.lock import LOCK_FILE
from lookonce.shared.files.own_folder import require_own_folder


def own(root: Path, **changes: object) -> bool:
    return require_own_folder(root, **{"kind": "a run", "marker": "config.json", **changes})  # type: ignore[arg-type]


def test_new_and_empty_folders_are_taken(tmp_path: Path) -> None:
    assert not own(tmp_path / "new")
    assert not own(tmp_path)
    (tmp_path / LOCK_FILE).touch()
    (tmp_path / "config.json.tmp-1a2b").touch()
    assert not own(tmp_path)


def test_a_folder_of_the_kind_is_taken(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").touch()
    assert own(tmp_path)
    with pytest.raises(UsageError, match=r"contains other files \(config.json, metrics.jsonl\)"):
        own(tmp_path, belongs=lambda path: path.read_text() != "{}")


def test_anything_else_is_refused_and_named(tmp_path: Path) -> None:
    for name in "dcba":
        (tmp_path / name).touch()
    with pytest.raises(
        CacheError, match=r"contains other files \(a, b, c, \.\.\.\) and no m.json of a cache; --out needs"
    ):
        own(tmp_path, kind="a cache", marker="m.json", error=CacheError)
    with pytest.raises(UsageError, match="a: is a file; --out needs a folder that is new, empty, or a run"):
        own(tmp_path / "a")


def test_a_folder_that_cannot_be_listed_is_trouble_with_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(AccessError, match="Permission denied"):
        own(tmp_path)
