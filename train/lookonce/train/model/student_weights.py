"""Reads a student's weights and the metadata of their file; refuses missing and unexpected parameters by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from lookonce.shared.errors import CheckpointError, UsageError
from lookonce.shared.normalisation import IMAGENET, Normalisation
from lookonce.train.model.student import Student
from lookonce.weights.described import described
from lookonce.weights.file import WeightsFile, open_weights
from lookonce.weights.positions import interpolate_positions
from lookonce.weights.selection import Architecture, shape_text

HEADS = ("head.", "fc_norm.")
"""Prefixes of the parameters that a file may have beside the student's: those of a classifier, which is dropped."""
NORM = ("norm.weight", "norm.bias")
POSITIONS = "pos_embed"


@dataclass(frozen=True, kw_only=True)
class StudentFile:
    """Contents of a file of weights."""

    path: Path
    """The file."""
    name: str
    """The student's timm name."""
    view_size: int
    """Side of its training views, pixels."""
    normalisation: Normalisation | None
    """Normalisation of its training pixels; None if the file does not record it."""
    ours: bool
    """Written by lookonce, which used ImageNet's normalisation before files recorded it."""
    state: Mapping[str, Tensor]
    """Parameter name -> tensor, on the CPU."""
    notes: tuple[str, ...]
    """Notes for the user on how it was read."""


def read_student_file(path: Path, *, name: str | None) -> StudentFile:
    """Read a file of weights without running code.

    Args:
        path: the file, or the folder of a run (see ``open_weights``). A view size that its metadata lacks is computed
            from the position embedding and the patch size.
        name: the student's timm name; None takes the file's.

    Raises:
        WeightsError: there is no such file, or it cannot be read.
        CheckpointError: the view size is unknown.
        UsageError: neither ``name`` nor the file names the model, or timm does not know it.
    """
    file = open_weights(path)
    description = described(file.path, file.metadata)
    classifier = _json(file.metadata.get("timm"))
    named = name or file.metadata.get("student") or classifier.get("model_name") or description.get("architecture")
    if not named:
        raise UsageError(f"{path}: the file does not name its model; give its timm name with --student")
    weights = file.fitting(_architecture(str(named)), strict=False)
    state, notes = dict(weights.state), list(weights.notes)
    if left := sorted({next(head for head in HEADS if key.startswith(head)) for key in state if key.startswith(HEADS)}):
        notes.append(f"{file.path}: its classifier ({', '.join(left)}*) is dropped, features are taken before it")
    if "fc_norm.weight" in state and NORM[0] not in state:
        # timm pools before the norm in this model; the student's norm, which no feature passes, is the identity
        width = state["fc_norm.weight"].shape[0]
        state |= {NORM[0]: torch.ones(width), NORM[1]: torch.zeros(width)}
    sizes = (file.metadata.get("view_size"), classifier.get("img_size"), *(description.get("input_size") or ())[-1:])
    trained_on = next((int(str(size)) for size in sizes if str(size).isdecimal()), None)
    return StudentFile(
        path=file.path,
        name=str(named),
        view_size=trained_on or _view_size(file, state),
        normalisation=Normalisation.from_document(description),
        ours="student" in file.metadata or bool(classifier),
        state=state,
        notes=tuple(notes),
    )


def normalisation_in_use(
    file: StudentFile, mean: tuple[float, float, float] | None, std: tuple[float, float, float] | None
) -> tuple[Normalisation, str]:
    """Normalisation of the pixels of a file's student and its origin: flags, the file, or ImageNet's."""
    if file.normalisation is not None:
        used, why = file.normalisation, "as the file records"
    elif file.ours:
        used, why = IMAGENET, "ImageNet's, which lookonce used before files recorded it"
    else:
        used, why = IMAGENET, "ImageNet's, because the file records none"
        if (other := timms_normalisation(file.name)) not in (None, IMAGENET):
            why += f"; timm's own weights of {file.name} have {other}: {other.flags if other else ''}"
    given = used.replaced(mean, std)
    return given, why if given == used else f"as given, not {used}, {why}"


def timms_normalisation(name: str) -> Normalisation | None:
    """Normalisation of timm's own pretrained weights of a model; None if it has none."""
    config: Any = timm.models.get_pretrained_cfg(name)
    return Normalisation.from_document(config.to_dict()) if config is not None and config.has_weights else None


def fit_student_weights(student: Student, state: Mapping[str, Tensor], *, origin: Path) -> None:
    """Load weights into a student: all parameters and no others, except a head; positions are interpolated.

    Raises:
        CheckpointError: a parameter is missing, unexpected or of another shape; the first is named.
    """
    found = {key: value for key, value in state.items() if not key.startswith(HEADS)}
    if POSITIONS in found and found[POSITIONS].ndim == 3:
        found[POSITIONS] = interpolate_positions(found[POSITIONS].float(), 1, student.grid**2)
    problems = Architecture(name=student.name, tensors=student.model.state_dict()).misfits(found)
    if problems:
        others = f", and {len(problems) - 1} other parameters do not fit" if len(problems) > 1 else ""
        raise CheckpointError(
            f"{origin} does not fit {student.name} at {student.img_size} px: {problems[0]}{others}; name the model "
            "that the weights belong to with --student"
        )
    student.model.load_state_dict(found)


def _architecture(name: str) -> Architecture:
    """A student's parameters at the model's own view size."""
    if not timm.is_model(name):
        raise UsageError(f"student: timm knows no model {name!r}; take a plain one such as vit_base_patch16_224")
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, num_classes=0)
    return Architecture(
        name=name, tensors=model.state_dict(), any_shape=frozenset({POSITIONS}), may_lack=frozenset(NORM), beside=HEADS
    )


def _view_size(file: WeightsFile, state: Mapping[str, Tensor]) -> int:
    position, patches = state.get(POSITIONS), state.get("patch_embed.proj.weight")
    if position is None or patches is None or position.ndim != 3 or patches.ndim != 4:
        raise CheckpointError(
            f"{file.path}: expected a vision transformer under timm's names (pos_embed, patch_embed.proj.weight), "
            f"found {', '.join(sorted(state)[:3]) or 'no parameters'}; give the student.safetensors of a run"
        )
    if position.shape[1] < 2:
        raise CheckpointError(
            f"{file.path}: pos_embed has shape {shape_text(position.shape)}, expected a class token and a square "
            "grid of patches; give the student.safetensors of a run"
        )
    return math.isqrt(position.shape[1]) * patches.shape[-1]  # isqrt drops the class token's row


def _json(text: str | None) -> Mapping[str, Any]:
    try:
        document = json.loads(text or "{}")
    except ValueError:
        return {}
    return document if isinstance(document, Mapping) else {}
