"""What follows from the numbers of samples and epochs: steps, warm-up, learning rate, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from lookonce.train.config import TrainingConfig
from lookonce.train.data.sample_order import SampleOrder
from lookonce.train.loop.optimization import learning_rate, scaled_learning_rate

LEAST_CHECKPOINT_STEPS = 50

EMA_START_AT_MOST = 0.1
"""Share of the student after the first step in the moving average at the end of a run, above which it is said."""


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

    def notes(self, config: TrainingConfig) -> list[str]:
        """What the user should know of the run's length."""
        notes = []
        if config.max_steps is not None and config.max_steps > self.total_steps:
            notes.append(
                f"--max-steps {config.max_steps} is more than the {self.total_steps} steps of --epochs "
                f"{config.epochs}, where the run ends; more --epochs make it longer"
            )
        if config.ema is not None and (share := config.ema ** (self.total_steps - 1)) > EMA_START_AT_MOST:
            notes.append(
                f"--ema {config.ema} averages over about {round(1 / (1 - config.ema)):,} steps and the run has "
                f"{self.total_steps:,}: {share:.1%} of student-ema.safetensors will be the student as it was after the "
                f"first step; --ema {0.01 ** (1 / self.total_steps):.2g} would leave 1% of it"
            )
        return notes

    def learning_rate(self, step: int) -> float:
        """Of a 0-based step."""
        return learning_rate(
            step,
            total_steps=self.total_steps,
            warmup_steps=self.warmup_steps,
            base_lr_scaled=self.peak,
            min_lr=self.min_lr,
        )
