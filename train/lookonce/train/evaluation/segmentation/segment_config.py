"""Settings of a segmentation; without torch, so that ``evaluate-student --help`` starts fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from lookonce.shared.config_values import Count, NonNegative, NonNegativeInt, Range, validate
from lookonce.shared.errors import UsageError
from lookonce.shared.given_flags import refuse_without_effect

Windows = Literal["slide", "crop"]
MOST_CLASSES = 65536
"""Numbers that a mask of 16 bits has."""


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Settings of a segmentation."""

    head: Literal["knn", "linear"] = "knn"
    """knn: the training patches of highest cosine vote with weight exp(cosine / 0.07), without training; linear: batch
    norm and a 1 x 1 convolution, trained on the training patches by AdamW."""
    windows: Windows = "slide"
    """slide: squares of the image's shorter side, side by side along the longer one with at least a third overlapping;
    their scores are added. crop: the central square alone; pixels outside it do not count."""
    classes: Annotated[int, Range(at_least=2, at_most=MOST_CLASSES)] | None = None
    """Number of classes; masks contain 0 to classes - 1. Default: what the masks contain."""
    ignore: str = "255"
    """Class indices that do not count, such as 255 or 0,255; none: every index is a class."""
    block: Count | None = None
    """Number of the block whose output is read, from 1; default: the last."""
    train_patches: Annotated[int, Range(at_least=2)] = 500_000
    """Most training patches in memory, the same number from each image, drawn by the seed. One of ViT-B has 3 kB,
    and twice that for a moment."""
    k: Count = 30
    """With --head knn: number of neighbours."""
    epochs: Count = 20
    """With --head linear: passes over the training patches."""
    base_lr: NonNegative = 1e-3
    """With --head linear: learning rate for 256 patches per step; scaled by the patches of a step (1024) / 256."""
    seed: NonNegativeInt = 0
    """Seed of the drawn patches, of the linear head and its order, and of an untrained student."""

    def __post_init__(self) -> None:
        """Refuse values out of range, and flags without effect.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        validate(self)
        _ = self.ignored
        if self.head == "knn":
            refuse_without_effect(self, "--head linear", "epochs", "base_lr")
        else:
            refuse_without_effect(self, "--head knn", "k")

    @property
    def ignored(self) -> tuple[int, ...]:
        """Class indices that do not count, ascending.

        Raises:
            UsageError: ``ignore`` is neither ``none`` nor numbers from 0 to 65535.

        >>> SegmentConfig(ignore="255, 0").ignored, SegmentConfig(ignore="none").ignored
        ((0, 255), ())
        """
        if self.ignore == "none":
            return ()
        parts = [part.strip() for part in self.ignore.split(",")]
        if not all(part.isdecimal() and int(part) < MOST_CLASSES for part in parts):
            raise UsageError(f"--ignore {self.ignore!r}: expected class indices such as 255 or 0,255, or none")
        return tuple(sorted({int(part) for part in parts}))

    def document(self) -> dict[str, Any]:
        """JSON-compatible: the settings of the head."""
        if self.head == "knn":
            return {"k": self.k}
        return {"epochs": self.epochs, "base_lr": self.base_lr}
