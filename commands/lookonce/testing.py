"""Checks that your own trainer resumes exactly: stopped at any step and resumed, it gives the same numbers.

Nothing here depends on a test framework: each check raises ``AssertionError`` with the place of the first difference.

``check_batches_resume`` is for anything that yields batches and has ``state_dict`` and ``load_state_dict``, such as
``lookonce.api.CachedTargets`` behind a loader of your own. ``check_exact_resume`` is for whole training runs: it stops
a run after every step, resumes it in a new call, and compares its outcome with an uninterrupted run, bit for bit.

    def train(folder, *, max_steps=None):  # resumes from the checkpoints in the folder, up to max_steps in all
        ...

    check_exact_resume(train, tmp_path, steps=10, outcome=lambda folder: torch.load(folder / "model.pt"))
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

__all__ = [
    "ResumableBatches",
    "Train",
    "check_batches_resume",
    "check_exact_resume",
    "check_same",
    "logged_numbers",
    "student_run",
]

NUMBERS = ("step", "epoch", "loss", "level_loss", "lr")
"""Fields of a line of ``metrics.jsonl`` that are compared; the others are timings."""


class Train(Protocol):
    """A training run that can be stopped and resumed."""

    def __call__(self, folder: Path, *, max_steps: int | None = None) -> object:
        """Train in a folder, from its newest checkpoint if there is one.

        Args:
            folder: folder of the run; it need not exist.
            max_steps: stop after this many steps, counted from the start of the run; None trains to the end.
        """
        ...


class ResumableBatches(Protocol):
    """An iterable of batches whose position can be saved."""

    def __iter__(self) -> Any:
        """Iterate over the remaining batches."""
        ...

    def state_dict(self) -> Any:
        """The position after the last batch that was yielded."""
        ...

    def load_state_dict(self, state: Any, /) -> object:
        """Continue from a saved position."""
        ...


def check_same(expected: Any, found: Any, where: str = "") -> None:
    """Compare two values bit for bit: tensors, arrays, numbers, text, bytes, and mappings, sequences and dataclasses.

    NaN equals NaN, 0.0 differs from -0.0, and a tensor differs from one of another dtype or shape.

    Args:
        expected: the right value.
        found: the value to check.
        where: start of the message.

    Raises:
        AssertionError: names the place of the first difference and both values.

    Examples:
        >>> check_same({"loss": [1.0, 2.0]}, {"loss": [1.0, 2.5]}, "run")
        Traceback (most recent call last):
        AssertionError: run['loss'][1]: expected 2.0, found 2.5
    """
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor):
        _check_tensors(expected, found, where)
    elif numpy is not None and isinstance(expected, numpy.ndarray) and isinstance(found, numpy.ndarray):
        same_kind = expected.dtype == found.dtype and expected.shape == found.shape
        _require(same_kind and expected.tobytes() == found.tobytes(), where, expected, found)
    elif isinstance(expected, Mapping) and isinstance(found, Mapping):
        _require(list(expected) == list(found), f"{where} (keys)", list(expected), list(found))
        for key in expected:
            check_same(expected[key], found[key], f"{where}[{key!r}]")
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        _require(type(expected) is type(found), f"{where} (type)", type(expected).__name__, type(found).__name__)
        _require(len(expected) == len(found), f"{where} (length)", len(expected), len(found))
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            check_same(one, other, f"{where}[{number}]")
    elif is_dataclass(expected) and type(expected) is type(found):
        for field in fields(expected):
            check_same(getattr(expected, field.name), getattr(found, field.name), f"{where}.{field.name}")
    elif isinstance(expected, float) and isinstance(found, float):
        _require(struct.pack("<d", expected) == struct.pack("<d", found), where, expected, found)
    else:
        _require(type(expected) is type(found) and expected == found, where, expected, found)


def check_batches_resume(make_batches: Callable[[], ResumableBatches], *, at_most: int | None = None) -> int:
    """Save the position after every batch, resume each in a new iterable, and compare all following batches.

    Args:
        make_batches: makes a new iterable with the same batches. Yielded batches must not change afterwards.
        at_most: number of batches to check; None for all.

    Returns:
        The number of positions that were checked.

    Raises:
        AssertionError: there are fewer than two batches, or a resumed one differs; names the batch and the place.
    """
    batches, states, expected = make_batches(), [], []
    for batch in batches:
        expected.append(batch)
        states.append(batches.state_dict())
        if len(expected) == at_most:
            break
    if len(expected) < 2:
        raise AssertionError(f"batches: expected at least 2, found {len(expected)}: nothing can be resumed")
    for behind, state in enumerate(states, start=1):
        resumed = make_batches()
        resumed.load_state_dict(state)
        rest = list(_first(resumed, len(expected) - behind if at_most else None))
        where = f"resumed behind batch {behind - 1}"
        _require(len(rest) == len(expected) - behind, f"{where}: batches", len(expected) - behind, len(rest))
        for number, (one, other) in enumerate(zip(expected[behind:], rest, strict=True), start=behind):
            check_same(one, other, f"{where}, batch {number}: batch")
    return len(states)


def check_exact_resume(
    train: Train,
    folder: Path,
    *,
    steps: int,
    outcome: Callable[[Path], Any],
    stops: Iterable[int] | None = None,
    check_stopped: Callable[[Path, int], object] | None = None,
) -> None:
    """Stop a run after each step, resume it, and compare its outcome with that of an uninterrupted run.

    Args:
        train: see ``Train``; calls must not share any state.
        folder: where the runs are made, one folder each.
        steps: steps of the whole run, at least 2.
        outcome: takes the folder of a finished run, returns the values that must be equal, for example losses and the
            state of the model; ``check_same`` compares them.
        stops: numbers of steps after which runs are stopped; None for all from 1 to ``steps - 1``.
        check_stopped: called with the folder and the number of steps of each stopped run before it is resumed; raises
            ``AssertionError`` if the run did not stop there.

    Raises:
        AssertionError: a resumed run has another outcome; names the stop and the place.
    """
    if steps < 2:
        raise AssertionError(f"steps: expected at least 2, found {steps}: nothing can be resumed")
    uninterrupted = folder / "uninterrupted"
    train(uninterrupted)
    expected = outcome(uninterrupted)
    for stop in range(1, steps) if stops is None else stops:
        run = folder / f"stopped-{stop}"
        train(run, max_steps=stop)
        if check_stopped is not None:
            check_stopped(run, stop)
        train(run)
        check_same(expected, outcome(run), f"stopped after step {stop} of {steps}: outcome")


def logged_numbers(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl`` without timings: step, epoch, losses and learning rate.

    Args:
        run: folder of the run.
    """
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{name: line[name] for name in NUMBERS} for line in lines]


def student_run(run: Path) -> dict[str, Any]:
    """The outcome of a finished run of ``train-student``: every logged number but timings, and the student.

    Args:
        run: folder of the run.
    """
    from safetensors.torch import load_file

    student = load_file(run / "student.safetensors")
    return {"metrics": logged_numbers(run), "student": dict(sorted(student.items()))}


def _first(batches: Iterable[Any], count: int | None) -> Iterable[Any]:
    if count == 0:
        return
    for number, batch in enumerate(batches, start=1):
        yield batch
        if number == count:
            return


def _check_tensors(expected: Any, found: Any, where: str) -> None:
    for name in ("dtype", "shape"):
        _require(
            getattr(expected, name) == getattr(found, name),
            f"{where}.{name}",
            getattr(expected, name),
            getattr(found, name),
        )
    one, other = (tensor.detach().cpu().contiguous().reshape(-1) for tensor in (expected, found))
    if not one.numel():
        return
    bits = [tensor.view(sys.modules["torch"].uint8).reshape(one.numel(), -1) for tensor in (one, other)]
    wrong = (bits[0] != bits[1]).any(dim=1).nonzero()
    if len(wrong):
        place = int(wrong[0])
        index: Sequence[int] = _unravel(place, tuple(expected.shape))
        _require(False, f"{where}{list(index)} ({len(wrong)} of {one.numel()} values)", one[place], other[place])


def _unravel(place: int, shape: tuple[int, ...]) -> list[int]:
    """Index of an element, from its position in row-major order."""
    return [place // math.prod(shape[axis + 1 :]) % size for axis, size in enumerate(shape)]


def _require(same: bool, where: str, expected: object, found: object) -> None:
    if not same:
        raise AssertionError(f"{where or 'values'}: expected {expected!r:.200}, found {found!r:.200}")
