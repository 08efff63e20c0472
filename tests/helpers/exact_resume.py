"""What it means that a run was gone on with exactly, for every kind of run that can be stopped and continued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file


class Train(Protocol):
    """Trains in a folder, from where its checkpoints are, and returns the folder."""

    def __call__(self, folder: Path, *, max_steps: int | None = None) -> Path: ...


def numbers(run: Path) -> list[dict[str, Any]]:
    """What decides the run in metrics.jsonl: all but timings."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in ("step", "epoch", "loss", "level_loss", "lr")} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    """Losses, losses by level, learning rates and the final student are equal to the last bit."""
    assert numbers(one) == numbers(other)
    first, second = (load_file(run / "student.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def assert_restored_before_every_step(train: Train, folder: Path, expected: Path) -> None:
    """Save the state before every step of a run, restore each, and end as ``expected`` did, which nothing disturbed.

    The run has to log every step.
    """
    total = len(numbers(expected))
    assert total > 2
    for stop in range(1, total):
        run = train(folder / f"stopped-{stop}", max_steps=stop)
        assert not (run / "student.safetensors").exists()
        assert [line["step"] for line in numbers(run)] == list(range(stop))
        assert_same_run(expected, train(run))
