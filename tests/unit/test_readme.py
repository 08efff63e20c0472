"""README's commands can be typed, in order: every flag is known, and what a command reads was made by one before."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from lookonce.commands import evaluate_student, extract_features, feature_cache, train_student
from lookonce.commands.command import parse_arguments
from lookonce.train.config import TrainingConfig
from lookonce.train.sweep.sweep_file import read_sweep

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")

PROGRAMS: dict[str, Any] = {
    "extract-features": extract_features.Options,
    "train-student": train_student.Options,
    "evaluate-student": evaluate_student._any_options(),
    "feature-cache": feature_cache._any_options(),
}


def blocks(language: str) -> list[str]:
    """The code blocks of a language."""
    return [part.partition("\n")[2] for part in README.split("```")[1::2] if part.startswith(language)]


def commands() -> list[list[str]]:
    """Each whole command of ours, in order, without its comment."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    typed = [shlex.split(line, comments=True) for line in lines]
    return [words for words in typed if words and words[0] in PROGRAMS and "..." not in words]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_can_be_typed(words: list[str]) -> None:
    defaults = train_student.recipe_defaults if words[0] == "train-student" else lambda _: None
    assert parse_arguments(PROGRAMS[words[0]], prog=words[0], description="", arguments=words[1:], defaults=defaults)


def test_what_a_command_reads_was_made_before() -> None:
    made: set[str] = set()
    assert len(commands()) > 15
    for words in commands():
        if words[:2] == ["feature-cache", "convert"]:
            made.add(words[3])
        named = [word for word in words if word.startswith(("caches/", "runs/"))]
        if "--out" in words and words[:2] != ["feature-cache", "plan"]:
            made.add(words[words.index("--out") + 1])
        elif "--out" in words:
            named.remove(words[words.index("--out") + 1])
        assert not [name for name in named if not any(name == one or name.startswith(f"{one}/") for one in made)], words


def test_the_sweep_is_one(tmp_path: Path) -> None:
    (sweep,) = [block for block in blocks("toml") if "[[run]]" in block]
    (tmp_path / "runs.toml").write_text(sweep)
    runs = read_sweep(tmp_path / "runs.toml", TrainingConfig(shards=(Path("cache"),), out=tmp_path))
    assert {name: (run.mask, run.adapter) for name, run in runs.items()} == {
        "plain": (None, "linear"),
        "random-mask": ("random", "linear"),
        "two-layer-adapter": (None, "mlp2"),
    }
