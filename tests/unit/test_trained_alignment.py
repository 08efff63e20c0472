"""The alignment of a run, read from its newest checkpoint."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from lookonce.shared.errors import CheckpointError, UsageError
from lookonce.storage_schemas.recipe import TeacherIdentity
from lookonce.train.checkpoints.checkpoint_file import Checkpoint, save_checkpoint
from lookonce.train.checkpoints.trained_alignment import load_alignment
from lookonce.train.model.alignment import DynamicAlignment
from lookonce.train.model.alignment_config import AlignmentConfig
from lookonce.train.model.student import Student

CONFIG = AlignmentConfig(layer_weights="top2", adapter="mlp")
TEACHER = TeacherIdentity(
    name="timm:tiny",
    weights_digest="",
    blocks=(3, 4),
    block_count=4,
    width=6,
    input_size=32,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    compute_precision="fp32",
)


@pytest.fixture(scope="module")
def student() -> Student:
    return Student("test_vit", img_size=32)


def alignment(student: Student, seed: int) -> DynamicAlignment:
    return DynamicAlignment(
        CONFIG, student_blocks=student.depth, student_dim=student.dim, teacher_levels=4, teacher_dim=6, seed=seed
    )


def save(run: Path, step: int, trained: list[DynamicAlignment]) -> None:
    state = {
        f"alignments.{number}.{name}": value
        for number, one in enumerate(trained)
        for name, value in one.state_dict().items()
    }
    config = {**asdict(CONFIG), "shards": ["cache"] * len(trained)}
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder, Checkpoint(step=step, config=config, data={}, state={"module": state}))


def test_the_newest_checkpoint_and_the_cache_of_that_number(student: Student, tmp_path: Path) -> None:
    trained = [alignment(student, seed) for seed in (1, 2, 3)]
    save(tmp_path, 1, trained[:2])
    save(tmp_path, 2, trained[1:])
    for number, expected in ((1, trained[1]), (2, trained[2])):
        found = load_alignment(tmp_path, student, TEACHER, number=number)
        assert found.config == CONFIG
        assert found.state_dict().keys() == expected.state_dict().keys()
        for name, value in found.state_dict().items():
            assert torch.equal(value, expected.state_dict()[name])


def test_what_does_not_fit_is_named(student: Student, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected checkpoints, found none"):
        load_alignment(tmp_path, student, TEACHER)
    save(tmp_path, 1, [alignment(student, 1)])
    with pytest.raises(UsageError, match="the run has 1 caches, found number 2"):
        load_alignment(tmp_path, student, TEACHER, number=2)
    with pytest.raises(CheckpointError, match=r"step-000000001\.pt: its alignment does not fit"):
        load_alignment(tmp_path, student, replace(TEACHER, width=7))
