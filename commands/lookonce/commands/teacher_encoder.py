"""A teacher as an encoder, pooled as a student is. It lives here because the trainer never imports the extractor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookonce.extract.teachers import Teacher, load_teacher, resolve_teacher
from lookonce.train.evaluation.pooling import Pool, pool_tokens


class TeacherEncoder:
    """Features of a teacher's last block; its pixel statistics are its own, the pooling rule is the student's.

    Args:
        teacher: holds its last block.
        pool: see ``pool_tokens``.
        weights: the file its weights are from; None for the hub's.
    """

    def __init__(self, teacher: Teacher, *, pool: Pool, weights: Path | None = None) -> None:
        self.teacher = teacher
        self.pool: Pool = pool
        self.weights = weights

    @property
    def view_size(self) -> int:
        """Side of the views that the teacher was loaded for, pixels."""
        return self.teacher.view_size

    @property
    def device(self) -> torch.device:
        """Where the teacher runs."""
        return self.teacher.mean.device

    @torch.inference_mode()
    def __call__(self, views: NDArray[np.uint8]) -> Tensor:
        """Features, float32 (B, C), of uint8 views (B, view_size, view_size, 3)."""
        return pool_tokens(self.teacher(torch.from_numpy(views)).hidden[-1], self.pool)

    def document(self) -> Mapping[str, Any]:
        """What was evaluated."""
        return {
            "kind": "teacher",
            "name": self.teacher.spec.name,
            "weights": str(self.weights) if self.weights else None,
            "weights_digest": self.teacher.weights_digest,
            "view_size": self.view_size,
            "input_size": self.teacher.input_size,
            "pool": self.pool,
        }


def load_teacher_encoder(
    name: str, *, weights: Path | None, view_size: int, patch_size: int, pool: Pool, device: torch.device
) -> TeacherEncoder:
    """The teacher as extract-features would load it for students of this view and patch size, in float32.

    Args:
        name: as for extract-features.
        weights: file; None takes the hub cache, or the hub.
        view_size: side of the views, pixels.
        patch_size: side of the student's patches, pixels; the teacher's input has the same grid.
        pool: see ``pool_tokens``.
        device: where it runs.

    Raises:
        UsageError: unknown teacher, or sizes that do not fit.
        TeacherError: weights cannot be had or do not fit.
    """
    teacher = load_teacher(
        resolve_teacher(name), weights=weights, view_size=view_size, patch_size=patch_size, blocks="top1", device=device
    )
    return TeacherEncoder(teacher, pool=pool, weights=weights)
