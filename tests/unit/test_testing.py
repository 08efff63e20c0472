"""The checks that other people's trainers run: they pass where a run resumes exactly, and name where it does not."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lookonce.testing import check_batches_resume, check_exact_resume, check_same


@dataclass
class Pair:
    one: Any
    other: Any


NAN = float("nan")


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([1.0, NAN]),
        torch.zeros(0, 3),
        torch.tensor(True),
        torch.arange(6).reshape(2, 3).t(),
        np.array([1, 2]),
        {"a": [1, (2.0, NAN)], "b": None},
        Pair("x", b"y"),
        "text",
        3,
        True,
    ],
)
def test_the_same_is_the_same(value: Any) -> None:
    check_same(value, value)


@pytest.mark.parametrize(
    ("expected", "found", "message"),
    [
        (
            torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
            torch.tensor([[1.0, 2.0], [5.0, 6.0]]),
            r"run\[1, 0\] \(2 of 4 values\)",
        ),
        (torch.tensor([0.0]), torch.tensor([-0.0]), r"run\[0\] \(1 of 1 values\)"),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64), r"run\.dtype: expected torch.float32"),
        (torch.zeros(2, 1), torch.zeros(2), r"run\.shape"),
        (np.array([1, 2]), np.array([1, 3]), r"run: expected array\(\[1, 2\]\)"),
        (0.0, -0.0, "run: expected 0.0, found -0.0"),
        ({"a": 1}, {"b": 1}, r"run \(keys\): expected \['a'\], found \['b'\]"),
        ([1, 2], [1], r"run \(length\): expected 2, found 1"),
        ([1], (1,), r"run \(type\): expected 'list', found 'tuple'"),
        (Pair(1, {"x": 2}), Pair(1, {"x": 3}), r"run\.other\['x'\]: expected 2, found 3"),
        (1, True, "run: expected 1, found True"),
        (None, 0, "run: expected None, found 0"),
    ],
)
def test_a_difference_is_named(expected: Any, found: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_same(expected, found, "run")


class Batches:
    """Five batches; ``exact`` says whether the position is restored."""

    def __init__(self, *, exact: bool = True, count: int = 5) -> None:
        self._exact, self._count, self._next = exact, count, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while self._next < self._count:
            self._next += 1
            yield {"pixels": torch.full((2,), self._next), "step": self._next - 1}

    def state_dict(self) -> dict[str, int]:
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._next = state["next"] if self._exact else state["next"] // 3 * 3


def test_batches_are_resumed_behind_each() -> None:
    assert check_batches_resume(Batches) == 5
    assert check_batches_resume(lambda: Batches(count=10**9), at_most=4) == 4
    with pytest.raises(AssertionError, match=r"resumed behind batch 0: batches: expected 4, found 5"):
        check_batches_resume(lambda: Batches(exact=False))
    with pytest.raises(AssertionError, match=r"resumed behind batch 0, batch 1: batch\['pixels'\]\[0\] \(2 of 2"):
        check_batches_resume(lambda: Batches(exact=False, count=10**9), at_most=4)
    with pytest.raises(AssertionError, match="expected at least 2, found 1: nothing can be resumed"):
        check_batches_resume(lambda: Batches(count=1))


def train(folder: Path, *, max_steps: int | None = None, saves_generator: bool = True, steps: int = 6) -> None:
    """A random walk whose state is its position and, if it is saved, its generator."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, state = random.Random(0), {"step": 0, "position": 0.0}
    checkpoint = folder / "checkpoint.json"
    if checkpoint.exists():
        saved = json.loads(checkpoint.read_text())
        state = saved["state"]
        if saves_generator:
            version, numbers, gauss = saved["generator"]
            generator.setstate((version, tuple(numbers), gauss))
    while state["step"] < min(steps, max_steps or steps):
        state = {"step": state["step"] + 1, "position": state["position"] + generator.random()}
    checkpoint.write_text(json.dumps({"state": state, "generator": generator.getstate()}))


def outcome(folder: Path) -> Any:
    return json.loads((folder / "checkpoint.json").read_text())["state"]


def test_a_run_is_resumed_after_each_step(tmp_path: Path) -> None:
    stops: list[tuple[str, int]] = []
    check_exact_resume(
        train, tmp_path, steps=6, outcome=outcome, check_stopped=lambda run, stop: stops.append((run.name, stop))
    )
    assert stops == [(f"stopped-{stop}", stop) for stop in range(1, 6)]


def test_a_run_that_forgets_its_generator_is_found(tmp_path: Path) -> None:
    def forgetful(folder: Path, *, max_steps: int | None = None) -> None:
        train(folder, max_steps=max_steps, saves_generator=False)

    with pytest.raises(AssertionError, match=r"stopped after step 1 of 6: outcome\['position'\]: expected"):
        check_exact_resume(forgetful, tmp_path / "all", steps=6, outcome=outcome)
    with pytest.raises(AssertionError, match=r"stopped after step 4 of 6"):
        check_exact_resume(forgetful, tmp_path / "some", steps=6, outcome=outcome, stops=[4])


def test_a_run_that_does_not_stop_is_found_by_the_callers_own_check(tmp_path: Path) -> None:
    def check_stopped(run: Path, stop: int) -> None:
        assert outcome(run)["step"] == stop, f"{run.name} went on"

    def endless(folder: Path, *, max_steps: int | None = None) -> None:
        train(folder)

    check_exact_resume(endless, tmp_path / "unnoticed", steps=6, outcome=outcome)
    with pytest.raises(AssertionError, match="stopped-1 went on"):
        check_exact_resume(endless, tmp_path / "noticed", steps=6, outcome=outcome, check_stopped=check_stopped)
    with pytest.raises(AssertionError, match="steps: expected at least 2, found 1"):
        check_exact_resume(train, tmp_path / "short", steps=1, outcome=outcome)
