"""How a student is fine-tuned; no torch here, so that ``evaluate-student --help`` answers at once."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from lookonce.shared.errors import UsageError
from lookonce.train.names import PrecisionName

WARMUP_EPOCHS = 5.0
_RAND_AUGMENT = re.compile(
    r"rand(-(m\d+|n[1-9]\d*|mstd\d+(\.\d+)?|mmax\d+|p(0(\.\d+)?|1(\.0)?)|inc[01]|t(weights|3a|3aw)))*"
)
"""What timm's ``rand_augment_transform`` takes; it passes over most of what it does not know."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A fine-tuning recipe; defaults are MaskAlign's for ViT-B (ViT-L: 50 epochs, layer decay 0.75, drop path 0.4)."""

    epochs: int = 100
    """Times every image is seen."""
    warmup_epochs: float | None = None
    """Epochs of linear warm-up, before half a cosine; default: 5, or a tenth of the epochs when there are no more."""
    train_batch_size: int = 1024
    """Images a step of training; all of them when there are fewer."""
    base_lr: float = 3e-4
    """Learning rate of the head for 256 images a step; scaled by the images of a step / 256."""
    min_lr: float = 1e-6
    """Learning rate of the head at the end of the cosine."""
    weight_decay: float = 0.05
    """AdamW weight decay; none on biases, norms, class token and position embedding."""
    layer_decay: float = 0.55
    """What a layer's learning rate is of the next one's, above 0 up to 1."""
    drop_path: float = 0.2
    """Stochastic depth of the last block, 0 up to 1."""
    mixup: float = 0.8
    """Alpha of mixup; 0 is off."""
    cutmix: float = 1.0
    """Alpha of cutmix, which takes turns with mixup at random; 0 is off."""
    rand_augment: str = "rand-m9-mstd0.5-inc1"
    """RandAugment as timm writes it, or none."""
    random_erasing: float = 0.25
    """Probability of erasing a rectangle of an image, 0 to 1."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes, 0 up to 1."""
    precision: PrecisionName = "auto"
    """bf16 autocast on GPUs (auto), or full fp32."""
    seed: int = 0
    """Seed of the head, of the order of images, of all augmentation, and of an untrained student."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        if self.epochs < 1:
            raise UsageError(f"--epochs {self.epochs}: must be at least 1")
        if self.warmup_epochs is None:
            usual = WARMUP_EPOCHS if self.epochs > WARMUP_EPOCHS else self.epochs / 10
            object.__setattr__(self, "warmup_epochs", usual)
        if self.train_batch_size < (2 if self.mixes else 1):
            raise UsageError(
                f"--train-batch-size {self.train_batch_size}: must be at least 1, and 2 with --mixup or --cutmix"
            )
        for name in ("warmup_epochs", "base_lr", "min_lr", "weight_decay", "mixup", "cutmix", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{_flag(name)} {getattr(self, name)}: must be finite and not negative")
        for name in ("drop_path", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{_flag(name)} {getattr(self, name)}: must be at least 0 and below 1")
        if not 0 <= self.random_erasing <= 1:
            raise UsageError(f"--random-erasing {self.random_erasing}: must be from 0 to 1")
        if not 0 < self.layer_decay <= 1:
            raise UsageError(f"--layer-decay {self.layer_decay}: must be above 0 and at most 1")
        if not self.warmup < self.epochs:
            raise UsageError(f"--warmup-epochs {self.warmup_epochs}: must be fewer than the {self.epochs} epochs")
        if self.rand_augment != "none" and not _RAND_AUGMENT.fullmatch(self.rand_augment):
            raise UsageError(
                f"--rand-augment {self.rand_augment!r}: expected none, or timm's form such as rand-m9-mstd0.5-inc1 "
                "(m magnitude, n operations an image, mstd spread of the magnitude, p, mmax, inc, t)"
            )

    @property
    def warmup(self) -> float:
        """Epochs of linear warm-up, resolved."""
        return WARMUP_EPOCHS if self.warmup_epochs is None else self.warmup_epochs

    @property
    def mixes(self) -> bool:
        """Whether images are mixed in pairs."""
        return self.mixup > 0 or self.cutmix > 0

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        return asdict(self)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
