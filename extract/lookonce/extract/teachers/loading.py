"""Loads a teacher from its spec and a weights file or the hub."""

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
    """Load a teacher with its weights onto a device; never with random weights.

    Args:
        spec: from ``resolve_teacher``.
        weights: safetensors file or torch checkpoint (see ``open_weights``); None: from the hub cache, or the hub.
        view_size: side of the square views, pixels.
        patch_size: side of the *student's* patch, pixels; the teacher's input gets the same patch grid.
        blocks: ``top5``, ``all`` or 1-based numbers like ``8,10,12``.
        device: of the teacher.
        precision: of the arithmetic of the blocks.
        normalisation: of the pixels, replaces the one of the spec.
        announce: print normalisation and activation on standard error.
        quiet: print neither these nor notes about the weights file.

    Raises:
        UsageError: the patch size does not divide the view, or the blocks or the precision do not exist.
        TeacherError: the weights are not available, unreadable or do not fit, or the architecture is not supported.
    """
    if patch_size < 1 or view_size < patch_size or view_size % patch_size:
        raise UsageError(f"a view of {view_size} px cannot be cut into patches of {patch_size} px: give a multiple")
    if precision != "fp32" and precision not in HALF:
        raise UsageError(f"unknown compute precision '{precision}': known are fp32, {', '.join(HALF)}")
    input_size = spec.input_size(view_size, patch_size)
    trunk: Trunk = adapter_of(spec.library).build_trunk(spec, input_size)
    if trunk.patch_count != (view_size // patch_size) ** 2:
        raise TeacherError(
            f"{spec.name} is not a supported teacher for these views: an input of {input_size} px gives "
            f"{trunk.patch_count} patches, expected the student's {(view_size // patch_size) ** 2}; choose another one"
        )
    block_numbers = resolve_blocks(blocks, trunk.block_count)
    own = Normalisation(mean=spec.mean, std=spec.std)
    used = normalisation or own
    notes: list[str] = []
    if announce:
        instead = f" (its own: {own})" if used != own else ""
        notes.append(f"{spec.name}: pixels normalised by {used}{instead}; activation {trunk.activation}")
    if weights is None:
        state, origin = _pretrained_state(spec), f"the pretrained weights '{spec.tag}'"
    else:
        file = open_weights(weights)
        found = file.fitting(architecture_of(trunk, spec.name))
        state, origin = found.state, f"the weights file {file.path}"
        notes += [*_normalisation_notes(file, used), *found.notes, *adapter_of(spec.library).activation_notes(spec)]
    for note in () if quiet else notes:
        print(note, file=sys.stderr, flush=True)
    spec = replace(spec, mean=used.mean, std=used.std)
    digest = fit_weights(trunk, state, name=spec.name, origin=origin)
    teacher = Teacher(
        spec,
        trunk,
        blocks=block_numbers,
        view_size=view_size,
        input_size=input_size,
        weights_digest=digest,
        precision=precision,
    )
    return teacher.to(device)


def _normalisation_notes(file: WeightsFile, used: Normalisation) -> list[str]:
    described = described_normalisation(file.path, file.metadata)
    if described is None or described == used:
        return []
    return [f"{file.path} names other pixel statistics: {described}; {described.flags} uses them"]


def _pretrained_state(spec: TeacherSpec) -> Mapping[str, Tensor]:
    adapter = adapter_of(spec.library)
    origin: str = adapter.weights_origin(spec)
    if not origin:
        raise TeacherError(
            f"no pretrained weights are known for {spec.name}: give them with --teacher-weights FILE "
            "(safetensors or a torch checkpoint)"
        )
    # Without a network, the hub's client retries silently for most of a minute.
    print(
        f"taking the weights of {spec.name} from the hub cache, else from {origin} "
        "(HF_HUB_OFFLINE=1 uses only the cache) ...",
        file=sys.stderr,
        flush=True,
    )
    try:
        state: Mapping[str, Tensor] = adapter.pretrained_state(spec)
    except Exception as error:  # errors of three libraries: hub, network, file
        why = reason_and_advice(error, *adapter.hub_files(spec))
        raise TeacherError(
            f"cannot get the weights of {spec.name} from {origin}: {why}; or give the file with --teacher-weights FILE"
        ) from error
    return state
