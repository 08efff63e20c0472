"""What a teacher is, before any weight is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Library = Literal["timm", "open_clip"]

SUPPORTED_TEACHERS = (
    "teachers are timm's VisionTransformer and Eva (DINO, DINOv2, DINOv3, DeiT, MAE, AugReg, SigLIP, EVA-02 ...) "
    "and open_clip's image towers that are such or its own, with a class token or attention pooling"
)
"""For errors about those that cannot."""


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """A teacher's architecture, where its weights come from, and the pixels it was trained on."""

    name: str
    """Canonical name: ``timm:NAME[.TAG]`` or ``open_clip:ARCH[/TAG]``; every alias of a teacher has the same one.
    timm's own default tag is left out of it. Which weights were really used, their digest says."""
    library: Library
    """The library whose blocks are run."""
    architecture: str
    """The library's name of the architecture."""
    tag: str
    """The library's name of the pretrained weights; empty when there are none to fetch."""
    patch_size: int
    """Side of a patch in the teacher's own pixels."""
    mean: tuple[float, float, float]
    """What is subtracted from RGB in [0, 1]."""
    std: tuple[float, float, float]
    """What RGB in [0, 1] is then divided by; positive."""
    quick_gelu: bool = False
    """The weights were trained with x * sigmoid(1.702 x) in place of GELU (OpenAI's CLIP)."""

    def __post_init__(self) -> None:
        if self.patch_size < 1:
            raise ValueError(f"patch_size of {self.name} must be at least 1 pixel, not {self.patch_size}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"mean and std of {self.name} must be 3 numbers each, std positive: {self.mean}, {self.std}"
            )

    def input_size(self, view_size: int, student_patch_size: int) -> int:
        """Side of the teacher's input, so that its patch grid is the student's (CLIP-L/14 is fed 196 for 224 / 16).

        Args:
            view_size: side of the square view, pixels.
            student_patch_size: side of the student's patch, pixels; divides ``view_size``.
        """
        return view_size // student_patch_size * self.patch_size


def rgb(values: Sequence[float]) -> tuple[float, float, float]:
    """The three numbers of a library's pixel statistics."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue
