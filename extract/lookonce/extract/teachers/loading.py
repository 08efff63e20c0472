"""From a spec and a file (or the hub) to a teacher that can look."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lookonce.extract.teachers.adapters.trunk import Trunk
from lookonce.extract.teachers.blocks import resolve_blocks
from lookonce.extract.teachers.hub import reason_and_advice
from lookonce.extract.teachers.spec import TeacherSpec
from lookonce.extract.teachers.table import adapter_of
from lookonce.extract.teachers.teacher import HALF, Precision, Teacher
from lookonce.extract.teachers.weights import architecture_of, fit_weights
from lookonce.shared.errors import TeacherError, UsageError
from lookonce.shared.normalisation import Normalisation
from lookonce.weights.described import described_normalisation
from lookonce.weights.file import WeightsFile, open_weights


def load_teacher(
    spec: TeacherSpec,
    *,
    weights: Path | None,
    view_size: int,
    patch_size: int,
    blocks: str,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    normalisation: Normalisation | None = None,
    announce: bool = True,
    quiet: bool = False,
) -> Teacher:
    """The teacher with its weights, ready on a device; never with random ones.

    Args:
        spec: from ``resolve_teacher``.
        weights: safetensors file or torch checkpoint (see ``open_weights``); None takes the hub cache, or the hub.
        view_size: side of the square views, pixels.
        patch_size: side of the *student's* patch, pixels; the teacher's input follows from its grid.
        blocks: ``top5``, ``all`` or 1-based numbers like ``8,10,12``.
        device: where it runs.
        precision: of the blocks' arithmetic.
        normalisation: of the pixels, in place of the spec's.
        announce: print normalisation and activation in use on standard error.
        quiet: print neither these nor what there is to know of the weights file.

    Raises:
        UsageError: the patch size does not divide the view, or the blocks or the precision do not exist.
        TeacherError: the weights cannot be had, be read, or do not fit, or the architecture cannot teach.
    """
    if patch_size < 1 or view_size < patch_size or view_size % patch_size:
        raise UsageError(f"a view of {view_size} px cannot be cut into patches of {patch_size} px: give a multiple")
    if precision != "fp32" and precision not in HALF:
        raise UsageError(f"unknown compute precision '{precision}': known are fp32, {', '.join(HALF)}")
    input_size = spec.input_size(view_size, patch_size)
    trunk: Trunk = adapter_of(spec.library).build_trunk(spec, input_size)
    if trunk.patch_count != (view_size // patch_size) ** 2:
        raise TeacherError(
            f"{spec.name} cannot teach here: fed {input_size} px it sees {trunk.patch_count} patches, not the "
            f"student's {(view_size // patch_size) ** 2}"
        )
    wanted = resolve_blocks(blocks, trunk.block_count)
    own = Normalisation(mean=spec.mean, std=spec.std)
    used = normalisation or own
    notes: list[str] = []
    if announce:
        instead = f" (its own: {own})" if used != own else ""
        notes.append(f"{spec.name}: pixels normalised by {used}{instead}; activation {trunk.activation}")
    if weights is None:
        state, origin = _pretrained(spec), f"what the hub holds under '{spec.tag}'"
    else:
        file = open_weights(weights)
        found = file.fitting(architecture_of(trunk, spec.name))
        state, origin = found.state, f"the weights file {file.path}"
        notes += [*_said_of_pixels(file, used), *found.notes, *adapter_of(spec.library).activation_notes(spec)]
    for note in () if quiet else notes:
        print(note, file=sys.stderr, flush=True)
    spec = replace(spec, mean=used.mean, std=used.std)
    digest = fit_weights(trunk, state, name=spec.name, origin=origin)
    teacher = Teacher(
        spec,
        trunk,
        blocks=wanted,
        view_size=view_size,
        input_size=input_size,
        weights_digest=digest,
        precision=precision,
    )
    return teacher.to(device)


def _said_of_pixels(file: WeightsFile, used: Normalisation) -> list[str]:
    said = described_normalisation(file.path, file.metadata)
    if said is None or said == used:
        return []
    return [f"{file.path} says that its pixels are normalised by {said}: {said.flags} takes that"]


def _pretrained(spec: TeacherSpec) -> Mapping[str, Tensor]:
    adapter = adapter_of(spec.library)
    home: str = adapter.weights_home(spec)
    if not home:
        raise TeacherError(
            f"no pretrained weights are known for {spec.name}: give them with --teacher-weights FILE "
            "(safetensors or a torch checkpoint)"
        )
    # The hub's client tries for most of a minute, in silence, where there is no network.
    print(
        f"taking the weights of {spec.name} from the hub cache, else from {home} "
        "(HF_HUB_OFFLINE=1 looks in the cache alone) ...",
        file=sys.stderr,
        flush=True,
    )
    try:
        state: Mapping[str, Tensor] = adapter.pretrained_state(spec)
    except Exception as error:  # hub, network and file errors of three libraries; all mean that there are no weights
        why = reason_and_advice(error, *adapter.hub_files(spec))
        raise TeacherError(
            f"cannot get the weights of {spec.name} from {home}: {why}; or give the file with --teacher-weights FILE"
        ) from error
    return state
