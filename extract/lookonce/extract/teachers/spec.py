"""The specification of a teacher, before any weight is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Library = Literal["timm", "open_clip"]

SUPPORTED_TEACHERS = (
    "supported are timm's VisionTransformer and Eva (DINO, DINOv2, DINOv3, DeiT, MAE, AugReg, SigLIP, EVA-02 ...) and "
    "open_clip's image towers of these classes or its own, with a class token or attention pooling"
)
"""For errors about unsupported models."""


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """A teacher's architecture, where its weights come from, and the pixels it was trained on."""

    name: str
    """Canonical name, the same for every alias: ``timm:NAME[.TAG]``, without timm's default tag, or
    ``open_clip:ARCH[/TAG]``. The weights digest identifies the weights in use."""
    library: Library
    """The library that implements the blocks."""
    architecture: str
    """The library's name of the architecture."""
    tag: str
    """The library's name of the pretrained weights; empty if there are none."""
    patch_size: int
    """Side of a patch in pixels of the teacher's input."""
    mean: tuple[float, float, float]
    """Subtracted from RGB in [0, 1]."""
    std: tuple[float, float, float]
    """Divisor after the subtraction; positive."""
    quick_gelu: bool = False
    """Whether the weights were trained with x * sigmoid(1.702 x) instead of GELU (OpenAI's CLIP)."""

    def __post_init__(self) -> None:
        if self.patch_size < 1:
            raise ValueError(f"patch_size of {self.name} must be at least 1 pixel, not {self.patch_size}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"mean and std of {self.name} must be 3 numbers each, std positive: {self.mean}, {self.std}"
            )

    def input_size(self, view_size: int, student_patch_size: int) -> int:
        """Side of the teacher's input that gives the student's patch grid (196 pixels for CLIP-L/14 with 224 / 16).

        Args:
            view_size: side of the square view, pixels.
            student_patch_size: side of the student's patch, pixels; divides ``view_size``.
        """
        return view_size // student_patch_size * self.patch_size


def rgb(values: Sequence[float]) -> tuple[float, float, float]:
    """Pixel statistics of a library as three floats."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue
