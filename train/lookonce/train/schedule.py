"""What follows from the numbers of samples and epochs: steps, warm-up, learning rate, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from lookonce.train.config import TrainingConfig
from lookonce.train.optimization import learning_rate, scaled_learning_rate
from lookonce.train.sample_order import SampleOrder

LEAST_CHECKPOINT_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The plan of a run, in optimizer steps."""

    total_steps: int
    """Of the whole schedule."""
    last_step: int
    """Steps this call will have done: the whole schedule, or up to ``--max-steps``."""
    warmup_steps: int
    peak: float
    """Learning rate after warm-up."""
    min_lr: float
    checkpoint_steps: int

    @classmethod
    def of(cls, config: TrainingConfig, order: SampleOrder) -> Schedule:
        """The plan of a configured run."""
        total, per_epoch = order.total_steps, order.samples_per_epoch / config.batch_size
        warmup_epochs = min(config.warmup_epochs, config.epochs / 10)
        peak = scaled_learning_rate(config.base_lr, config.batch_size)
        return cls(
            total_steps=total,
            last_step=min(total, config.max_steps or total),
            warmup_steps=min(round(warmup_epochs * per_epoch), total - 1),
            peak=peak,
            min_lr=min(config.min_lr, peak),
            checkpoint_steps=config.checkpoint_steps or max(LEAST_CHECKPOINT_STEPS, round(per_epoch)),
        )

    def learning_rate(self, step: int) -> float:
        """Of a 0-based step."""
        return learning_rate(
            step, total_steps=self.total_steps, warmup_steps=self.warmup_steps, base_lr_scaled=self.peak,
            min_lr=self.min_lr,
        )  # fmt: skip
