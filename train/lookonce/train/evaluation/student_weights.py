"""Reading a student's weights: what the file says of itself, and every parameter fitted or refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lookonce.shared.errors import CheckpointError, UsageError
from lookonce.train.student import Student

HEAD = "head."
"""Prefix of the only parameters that a file may have beside the student's: a classifier is not evaluated."""


@dataclass(frozen=True, kw_only=True)
class StudentFile:
    """What a file of weights holds."""

    name: str
    """The student's timm name."""
    view_size: int
    """Side of the views that it was trained on, pixels."""
    state: Mapping[str, Tensor]
    """Parameter name -> tensor, on the CPU."""


def read_student_file(path: Path, *, name: str | None) -> StudentFile:
    """Read a safetensors file; nothing in it is run.

    Args:
        path: the file. Metadata ``student`` and ``view_size`` are used where they are there; without a view size, it
            is what the position embedding and the patches in the file amount to.
        name: the student's timm name; None takes the file's.

    Raises:
        CheckpointError: no such file, not safetensors, or no view size to be had.
        UsageError: neither ``name`` nor the file says which model this is.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a student's weights (a run's student.safetensors), found no file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: expected a safetensors file, found one that is damaged or of another kind ({error}); give the "
            "student.safetensors of a run"
        ) from error
    named = name or metadata.get("student")
    if named is None:
        raise UsageError(f"{path} does not say which model it holds: give its timm name with --student")
    return StudentFile(name=named, view_size=_view_size(path, metadata, state), state=state)


def fit_student_weights(student: Student, state: Mapping[str, Tensor], *, origin: Path) -> None:
    """Put weights into a student: all of them and no others, but for a head.

    Raises:
        CheckpointError: a parameter is missing, unexpected or of another shape; the first is named.
    """
    expected = {key: value.shape for key, value in student.model.state_dict().items()}
    found = {key: value for key, value in state.items() if not key.startswith(HEAD)}
    problems = [
        f"{key} should be {_shape(shape)} and is {_shape(found[key].shape) if key in found else 'missing'}"
        for key, shape in expected.items()
        if key not in found or found[key].shape != shape
    ]
    problems += [f"{key}, {_shape(found[key].shape)}, is not in the model" for key in found if key not in expected]
    if problems:
        others = f", and {len(problems) - 1} other parameters do not fit" if len(problems) > 1 else ""
        raise CheckpointError(
            f"{origin} does not fit {student.name} at {student.img_size} px: {problems[0]}{others}; name the model "
            "that the weights belong to with --student"
        )
    student.model.load_state_dict(found)


def _view_size(path: Path, metadata: Mapping[str, str], state: Mapping[str, Tensor]) -> int:
    if metadata.get("view_size", "").isdecimal():
        return int(metadata["view_size"])
    position, patches = state.get("pos_embed"), state.get("patch_embed.proj.weight")
    if position is None or patches is None or position.ndim != 3 or patches.ndim != 4:
        raise CheckpointError(
            f"{path}: expected a vision transformer under timm's names (pos_embed, patch_embed.proj.weight), found "
            f"{', '.join(sorted(state)[:3]) or 'no parameters'}; give the student.safetensors of a run"
        )
    return math.isqrt(position.shape[1]) * patches.shape[-1]  # the class token's row vanishes in the whole root


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "a single number"
