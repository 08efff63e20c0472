from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lookonce.shared.errors import BusyError, CheckpointError, UsageError
from lookonce.train.evaluation.evaluation_folder import EvaluationFolder
from lookonce.train.evaluation.linear_probe.linear import LinearResult
from lookonce.train.evaluation.result import stored_result

CONFIG = {
    "evaluation": "linear",
    "evaluated": {"name": "vit", "weights": "a.safetensors", "weights_digest": "sha256:1"},
    "images": {"folder": "here", "train": "sha256:2"},
    "recipe": {"epochs": 3, "seed": 0},
    "settings": {"batch_size": 64},
}


def changed(**parts: dict[str, Any]) -> dict[str, Any]:
    return {**CONFIG, **{name: {**CONFIG[name], **part} for name, part in parts.items()}}  # type: ignore[dict-item]


def hold(root: Path, config: dict[str, Any]) -> EvaluationFolder:
    folder = EvaluationFolder(root, config)
    with folder.exclusive():
        folder.save(1, {"state": 1})
    return folder


def test_what_decides_nothing_may_change(tmp_path: Path) -> None:
    hold(tmp_path / "run", CONFIG)
    free = changed(evaluated={"weights": "moved.safetensors"}, images={"folder": "there"}, settings={"batch_size": 2})
    folder = hold(tmp_path / "run", free)
    checkpoint = folder.newest()
    assert checkpoint is not None
    assert checkpoint.state == {"state": 1}
    assert json.loads((tmp_path / "run/config.json").read_text()) == free


def test_another_evaluation_is_refused_with_the_fields_that_differ(tmp_path: Path) -> None:
    hold(tmp_path / "run", CONFIG)
    other = changed(evaluated={"weights_digest": "sha256:9"}, recipe={"epochs": 4})
    with pytest.raises(CheckpointError) as refused:
        hold(tmp_path / "run", other)
    assert "recipe.epochs: the run has 3, now 4; the evaluated weights have changed since, or others are given)" in (
        str(refused.value)
    )
    assert "sha256" not in str(refused.value)
    assert json.loads((tmp_path / "run/config.json").read_text()) == CONFIG


def test_a_checkpoint_carried_here_from_another_evaluation_is_refused(tmp_path: Path) -> None:
    hold(tmp_path / "one", CONFIG)
    hold(tmp_path / "two", changed(recipe={"seed": 1}))
    (tmp_path / "one/checkpoints/step-000000001.pt").replace(tmp_path / "two/checkpoints/step-000000001.pt")
    folder = EvaluationFolder(tmp_path / "two", changed(recipe={"seed": 1}))
    with (
        folder.exclusive(),
        pytest.raises(CheckpointError, match=r"step-000000001\.pt: .*recipe\.seed: the run has 0, now 1"),
    ):
        folder.newest()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"contains other files \(notes\.txt\) and no config\.json of an evaluation"):
        hold(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "config.json").write_text('{"student": "vit"}')
    with pytest.raises(UsageError, match=r"no config\.json of an evaluation"):
        hold(tmp_path, CONFIG)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: is damaged"):
        hold(tmp_path, CONFIG)
    with pytest.raises(UsageError, match="is a file; --out needs a folder"):
        hold(tmp_path / "notes.txt", CONFIG)


def test_two_at_once_are_told(tmp_path: Path) -> None:
    first, second = EvaluationFolder(tmp_path / "run", CONFIG), EvaluationFolder(tmp_path / "run", CONFIG)
    with first.exclusive(), pytest.raises(BusyError, match="another evaluation writes"), second.exclusive():
        pass


def test_results_that_are_not_whole_are_none(tmp_path: Path) -> None:
    folder = hold(tmp_path / "run", CONFIG)
    assert folder.results() is None
    (tmp_path / "run/results.json").write_text('{"accuracy"')
    assert folder.results() is None
    (tmp_path / "run/results.json").write_text('{"accuracy": 1.0}')
    assert folder.results() == {"accuracy": 1.0}


def test_a_result_with_other_fields_is_refused_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"results\.json: is not the result of this evaluation .*'accuracies'"):
        stored_result(LinearResult, tmp_path / "results.json", {"method": "linear", "accuracies": 1.0})
