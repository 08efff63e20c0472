"""The recipe of a linear probe; without torch, so that ``evaluate-student --help`` starts fast."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from lookonce.shared.config_values import Count, NonNegative, NonNegativeInt, Range, validate
from lookonce.shared.errors import UsageError

OptimizerName = Literal["lars", "sgd", "adamw"]
Augmentation = Literal["crop-flip", "none"]

LARS_FROM = 10 * 16384
"""Training images from which on ``auto`` takes the paper's recipe: ten of its steps per epoch."""


@dataclass(frozen=True, kw_only=True)
class ProbeRecipe:
    """One complete recipe."""

    optimizer: OptimizerName
    augment: Augmentation
    epochs: int
    warmup_epochs: float
    probe_batch_size: int
    base_lr: float
    weight_decay: float

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        return asdict(self)


RECIPES = {
    "lars": ProbeRecipe(
        optimizer="lars",
        augment="crop-flip",
        epochs=90,
        warmup_epochs=10,
        probe_batch_size=16384,
        base_lr=0.025,
        weight_decay=0.0,
    ),
    "sgd": ProbeRecipe(
        optimizer="sgd",
        augment="none",
        epochs=100,
        warmup_epochs=10,
        probe_batch_size=256,
        base_lr=0.03,
        weight_decay=1e-3,
    ),
    "adamw": ProbeRecipe(
        optimizer="adamw",
        augment="none",
        epochs=100,
        warmup_epochs=10,
        probe_batch_size=256,
        base_lr=3e-3,
        weight_decay=0.1,
    ),
}
"""The paper's recipe (MaskAlign's release: 90 epochs, LARS, batch size 16384), and two for small data sets."""


@dataclass(frozen=True, kw_only=True)
class LinearProbeConfig:
    """Settings of a linear probe; those left out follow the recipe of the optimizer."""

    optimizer: Literal["auto", "lars", "sgd", "adamw"] = "auto"
    """lars: the paper's recipe (90 epochs of fresh crops and flips, steps of 16384 images, base rate 0.025); sgd and
    adamw: for small data sets (100 epochs over centre views encoded once, steps of 256 images); auto: lars from 163,840
    training images on, sgd below."""
    augment: Literal["auto", "crop-flip", "none"] = "auto"
    """crop-flip: a fresh random crop and flip of every image in every epoch, each encoded by the model; none: centre
    views, encoded once."""
    epochs: Count | None = None
    """Passes over the training images."""
    warmup_epochs: NonNegative | None = None
    """Epochs of linear warm-up before half a cosine down to 0; default: a ninth (lars) or a tenth of the epochs."""
    probe_batch_size: Annotated[int, Range(at_least=2)] | None = None
    """Images per step of the probe; all images if there are fewer."""
    base_lr: NonNegative | None = None
    """Learning rate for 256 images per step; scaled by the images of a step / 256."""
    weight_decay: NonNegative | None = None
    """Weight decay; default: 0 (lars), 0.001 (sgd), 0.1 (adamw)."""
    seed: NonNegativeInt = 0
    """Seed of the probe's initial weights, its order of images and its crops, and of an untrained student."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        validate(self)

    def recipe(self, images: int) -> ProbeRecipe:
        """The complete recipe for a number of training images.

        Raises:
            UsageError: the warm-up is as long as the training.

        >>> LinearProbeConfig(epochs=50).recipe(600).warmup_epochs
        5.0
        """
        small: OptimizerName = "lars" if images >= LARS_FROM else "sgd"
        base = RECIPES[small if self.optimizer == "auto" else self.optimizer]
        given = {field.name: getattr(self, field.name, None) for field in fields(ProbeRecipe)}
        chosen = {name: value for name, value in given.items() if value not in (None, "auto")}
        resolved = {**base.document(), **chosen}
        if self.warmup_epochs is None:
            resolved["warmup_epochs"] = base.warmup_epochs * resolved["epochs"] / base.epochs
        if not resolved["warmup_epochs"] < resolved["epochs"]:
            raise UsageError(
                f"--warmup-epochs {resolved['warmup_epochs']}: must be fewer than the {resolved['epochs']} epochs"
            )
        return ProbeRecipe(**resolved)
