"""A teacher as an encoder, pooled like a student."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookonce.shared.normalisation import Normalisation
from lookonce.train.evaluation.encoders.pooling import Pool, pool_tokens


class FrozenTeacher(Protocol):
    """The part of ``lookonce.extract.teachers.Teacher`` that an encoder uses; training does not import that module."""

    spec: Any
    """Its ``name`` is the canonical one, such as ``timm:vit_base_patch16_224.dino``."""
    view_size: int
    """Side of the views, pixels."""
    input_size: int
    """Side of the model's input, pixels."""
    weights_digest: str
    blocks: tuple[int, ...]
    """Numbers of the blocks in ``hidden``, ascending, from 1."""
    block_count: int
    """Number of all blocks."""
    mean: Tensor
    """Pixel mean, on the teacher's device."""

    def __call__(self, views: Tensor) -> Any:
        """Outputs of uint8 views (B, view_size, view_size, 3); ``hidden`` has a tensor (B, 1 + N, C) per block."""
        ...


class TeacherEncoder:
    """Features of a teacher's block, with its own normalisation and the pooling rule of students.

    Args:
        teacher: its last loaded block is read.
        pool: see ``pool_tokens``.
        weights: file of the weights, for the document; None for the hub's.
        instead: the normalisation that replaces the teacher's own, for the document; None if none does.
    """

    def __init__(
        self, teacher: FrozenTeacher, *, pool: Pool, weights: Path | None = None, instead: Normalisation | None = None
    ) -> None:
        self.instead = instead
        self.teacher = teacher
        self.pool: Pool = pool
        self.weights = weights

    @property
    def view_size(self) -> int:
        """Side of the teacher's views, pixels."""
        return self.teacher.view_size

    @property
    def device(self) -> torch.device:
        """Where the teacher runs."""
        return self.teacher.mean.device

    @property
    def normalisation(self) -> Normalisation:
        """Normalisation of the teacher's pixels."""
        return Normalisation(mean=self.teacher.spec.mean, std=self.teacher.spec.std)

    @property
    def block(self) -> int:
        """Number of the block that is read, from 1."""
        return self.teacher.blocks[-1]

    @property
    def block_count(self) -> int:
        """Number of the teacher's blocks."""
        return self.teacher.block_count

    @torch.inference_mode()
    def __call__(self, views: NDArray[np.uint8]) -> Tensor:
        """Features of uint8 views (B, view_size, view_size, 3): float32, of the shape that ``pool_tokens`` gives."""
        tokens: Tensor = self.teacher(torch.from_numpy(views)).hidden[-1]
        return pool_tokens(tokens, self.pool)

    def document(self) -> Mapping[str, Any]:
        """JSON-compatible: kind, name, weights, sizes, pool, and a normalisation other than the teacher's own."""
        return {
            "kind": "teacher",
            "name": self.teacher.spec.name,
            "weights": str(self.weights) if self.weights else None,
            "weights_digest": self.teacher.weights_digest,
            "view_size": self.view_size,
            "input_size": self.teacher.input_size,
            "pool": self.pool,
            **(self.instead.document() if self.instead else {}),
        }
