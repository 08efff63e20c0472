"""The recipe of fine-tuning; without torch, so that ``evaluate-student --help`` starts fast."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from lookonce.shared.config_values import Count, Fraction, NonNegative, NonNegativeInt, Range, validate
from lookonce.shared.errors import UsageError
from lookonce.train.names import PrecisionName

WARMUP_EPOCHS = 5.0
_RAND_AUGMENT = re.compile(
    r"rand(-(m\d+|n[1-9]\d*|mstd\d+(\.\d+)?|mmax\d+|p(0(\.\d+)?|1(\.0)?)|inc[01]|t(weights|3a|3aw)))*"
)
"""The form of timm's ``rand_augment_transform``, which ignores most parts that it does not know."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A fine-tuning recipe; defaults are MaskAlign's for ViT-B (ViT-L: 50 epochs, layer decay 0.75, drop path 0.4)."""

    epochs: Count = 100
    """Passes over the training images."""
    warmup_epochs: NonNegative | None = None
    """Epochs of linear warm-up before half a cosine; default: 5, or a tenth of the epochs if there are at most 5."""
    train_batch_size: Count = 1024
    """Images per training step; all images if there are fewer."""
    base_lr: NonNegative = 3e-4
    """Learning rate of the head for 256 images per step; scaled by the images of a step / 256."""
    min_lr: NonNegative = 1e-6
    """Learning rate of the head at the end of the cosine."""
    weight_decay: NonNegative = 0.05
    """AdamW weight decay; none on biases, norms, class token and position embedding."""
    layer_decay: Annotated[float, Range(above=0, at_most=1)] = 0.55
    """Ratio of a layer's learning rate to that of the next layer, above 0 and at most 1."""
    drop_path: Fraction = 0.2
    """Stochastic depth of the last block, at least 0 and below 1."""
    mixup: NonNegative = 0.8
    """Alpha of mixup; 0 is off."""
    cutmix: NonNegative = 1.0
    """Alpha of cutmix, which alternates with mixup at random; 0 is off."""
    rand_augment: str = "rand-m9-mstd0.5-inc1"
    """RandAugment as timm writes it, or none."""
    random_erasing: Annotated[float, Range(at_least=0, at_most=1)] = 0.25
    """Probability of erasing a rectangle of an image, 0 to 1."""
    label_smoothing: Fraction = 0.1
    """Share of the target that is spread over all classes, at least 0 and below 1."""
    precision: PrecisionName = "auto"
    """bf16 autocast on GPUs (auto), or full fp32."""
    seed: NonNegativeInt = 0
    """Seed of the head, the order of images and all augmentation, and of an untrained student."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        validate(self)
        if self.warmup_epochs is None:
            default = WARMUP_EPOCHS if self.epochs > WARMUP_EPOCHS else self.epochs / 10
            object.__setattr__(self, "warmup_epochs", default)
        if self.mixes and self.train_batch_size < 2:
            raise UsageError(f"--train-batch-size {self.train_batch_size}: must be at least 2 with --mixup or --cutmix")
        if not self.warmup < self.epochs:
            raise UsageError(f"--warmup-epochs {self.warmup_epochs}: must be fewer than the {self.epochs} epochs")
        if self.rand_augment != "none" and not _RAND_AUGMENT.fullmatch(self.rand_augment):
            raise UsageError(
                f"--rand-augment {self.rand_augment!r}: expected none, or timm's form such as rand-m9-mstd0.5-inc1 "
                "(m magnitude, n operations per image, mstd spread of the magnitude, p, mmax, inc, t)"
            )

    @property
    def warmup(self) -> float:
        """Epochs of linear warm-up, with the default resolved."""
        return WARMUP_EPOCHS if self.warmup_epochs is None else self.warmup_epochs

    @property
    def mixes(self) -> bool:
        """Whether images are mixed in pairs."""
        return self.mixup > 0 or self.cutmix > 0

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        return asdict(self)
