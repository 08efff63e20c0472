"""A student as an encoder: all patches visible, no head, no alignment part."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookonce.shared.canonical import digest_bytes
from lookonce.shared.errors import UsageError
from lookonce.shared.normalisation import IMAGENET, Normalisation
from lookonce.shared.patches import patchify
from lookonce.train.evaluation.encoders.pooling import Pool, pool_tokens
from lookonce.train.model.student import Student
from lookonce.train.model.student_weights import fit_student_weights, normalisation_in_use, read_student_file


class StudentEncoder:
    """Features of a student on whole views.

    Args:
        student: the model; it is moved to the device and set to evaluation mode.
        pool: see ``pool_tokens``.
        device: where it runs.
        weights: file of the weights, for the document; None for an untrained student.
        block: number of the block whose output is read, from 1; None for the last.

    Raises:
        UsageError: the student has no such block.
    """

    def __init__(
        self,
        student: Student,
        *,
        pool: Pool,
        device: torch.device | str = "cpu",
        weights: Path | None = None,
        block: int | None = None,
    ) -> None:
        if block is not None and not 1 <= block <= student.depth:
            raise UsageError(f"--block {block}: {student.name} has blocks 1 to {student.depth}")
        self.block, self.block_count = block or student.depth, student.depth
        self.student = student.to(device).eval()
        self.pool: Pool = pool
        self.device = torch.device(device)
        self.weights = weights

    @property
    def view_size(self) -> int:
        """Side of the student's views, pixels."""
        return self.student.img_size

    @property
    def normalisation(self) -> Normalisation:
        """Normalisation of the student's pixels."""
        return self.student.normalisation

    @functools.cached_property
    def weights_digest(self) -> str:
        """SHA-256 of the student's parameters in the order of their names; identifies the student."""
        state = self.student.export_state()
        parts = [name.encode() + state[name].numpy().tobytes() for name in sorted(state)]
        return digest_bytes(b"".join(parts))

    @torch.inference_mode()
    def __call__(self, views: NDArray[np.uint8]) -> Tensor:
        """Features of uint8 views (B, view_size, view_size, 3): float32, of the shape that ``pool_tokens`` gives."""
        patches = torch.from_numpy(patchify(views, self.student.patch_size)).to(self.device)
        ids = torch.arange(patches.shape[1], device=self.device).expand(len(patches), -1)
        return pool_tokens(self.student(patches, ids, blocks=self.block)[-1], self.pool)

    def document(self) -> Mapping[str, Any]:
        """JSON-compatible: kind, name, weights, view size, pool, and a normalisation other than ImageNet's."""
        return {
            "kind": "student" if self.weights else "untrained student",
            "name": self.student.name,
            "weights": str(self.weights) if self.weights else None,
            "weights_digest": self.weights_digest,
            "view_size": self.view_size,
            "patch_size": self.student.patch_size,
            "pool": self.pool,
            **({} if self.student.normalisation == IMAGENET else self.student.normalisation.document()),
        }


def load_student(
    path: Path,
    *,
    name: str | None = None,
    view_size: int | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    say: Callable[[str], object] = lambda note: None,
) -> Student:
    """A trained student from ``student.safetensors`` (or any file of the same model's weights under timm's names).

    Args:
        path: the file, or the folder of a run; its metadata may contain name, view size and normalisation.
        name: timm name; overrides that of the file.
        view_size: side of the views in pixels; overrides that of the file, position embeddings are interpolated.
        mean: overrides that of the file.
        std: overrides that of the file.
        say: called with notes for the user: the normalisation and its origin, and how the file was read.

    Raises:
        UsageError: neither the file nor ``name`` names the student, or that model cannot be a student.
        WeightsError, CheckpointError: the file cannot be read, or a parameter does not fit.
    """
    file = read_student_file(path, name=name)
    normalisation, why = normalisation_in_use(file, mean, std)
    student = Student(file.name, img_size=view_size or file.view_size, normalisation=normalisation)
    fit_student_weights(student, file.state, origin=file.path)
    say(f"{file.name}: pixels normalised by {normalisation} ({why})")
    for note in file.notes:
        say(note)
    if student.img_size != file.view_size:
        say(
            f"{file.path} was trained on views of {file.view_size} px: position embeddings are interpolated to "
            f"{student.img_size} px"
        )
    return student
