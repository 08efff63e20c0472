"""How a linear probe is trained; no torch here, so that ``evaluate-student --help`` answers at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from lookonce.shared.errors import UsageError

OptimizerName = Literal["lars", "sgd", "adamw"]
Augmentation = Literal["crop-flip", "none"]

LARS_FROM = 10 * 16384
"""Training images from which ``auto`` takes the paper's recipe: ten of its steps an epoch."""


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
"""The paper's recipe (MaskAlign's release: 90 epochs, LARS, batch 16384), and two for small data."""


@dataclass(frozen=True, kw_only=True)
class LinearProbeConfig:
    """What may be chosen of a linear probe; what is left out follows the optimizer's recipe."""

    optimizer: Literal["auto", "lars", "sgd", "adamw"] = "auto"
    """lars: the paper's recipe (90 epochs of fresh crops and flips, steps of 16384 images, base rate 0.025); sgd and
    adamw: for small data (100 epochs over centre views that are looked at once, steps of 256 images); auto: lars from
    163,840 training images on, sgd below."""
    augment: Literal["auto", "crop-flip", "none"] = "auto"
    """crop-flip: a fresh random crop and flip of every image in every epoch, the model runs each time; none: centre
    views, the model runs once."""
    epochs: int | None = None
    """Times every image is seen."""
    warmup_epochs: float | None = None
    """Epochs of linear warm-up, before half a cosine down to 0; default: a ninth (lars) or a tenth of the epochs."""
    probe_batch_size: int | None = None
    """Images a step of the probe; all of them when there are fewer."""
    base_lr: float | None = None
    """Learning rate for 256 images a step; scaled by the images of a step / 256."""
    weight_decay: float | None = None
    """Weight decay; default: 0 (lars), 0.001 (sgd), 0.1 (adamw)."""
    seed: int = 0
    """Seed of the probe's first weights, of its order of images and its crops, and of an untrained student."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        for name, least in (("epochs", 1), ("probe_batch_size", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
        for name in ("warmup_epochs", "base_lr", "weight_decay", "seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} {value}: must be finite and not negative")

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
