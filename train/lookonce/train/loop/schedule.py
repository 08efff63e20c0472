"""Schedules: the learning rate of every step, and the steps, the warm-up and the checkpoints of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lookonce.shared.errors import UsageError
from lookonce.train.config import TrainingConfig
from lookonce.train.data.sample_order import SampleOrder
from lookonce.train.loop.optimization import scaled_learning_rate

LEAST_CHECKPOINT_STEPS = 50
"""Steps between checkpoints by default, at least."""

EMA_START_AT_MOST = 0.1
"""Share of the first step's student in the final moving average, above which the user gets a note."""


@dataclass(frozen=True, kw_only=True)
class StepSchedule:
    """The learning rate of every optimizer step: a linear warm-up from 0, then half a cosine.

    >>> plan = StepSchedule(total_steps=6, warmup_steps=2, peak=1.0, min_lr=0.0)
    >>> [plan.learning_rate(step) for step in (0, 1, 2, 4)]
    [0.0, 0.5, 1.0, 0.5]
    """

    total_steps: int
    """Steps of the whole schedule, at least 1."""
    warmup_steps: int
    """0 or more, fewer than ``total_steps``."""
    peak: float
    """Learning rate after warm-up, from ``scaled_learning_rate``."""
    min_lr: float
    """Learning rate at the end of the cosine."""

    def learning_rate(self, step: int) -> float:
        """Learning rate of one step.

        Args:
            step: 0-based, 0 to ``total_steps``; ``total_steps`` is reached after training only.

        Raises:
            UsageError: the step or the warm-up does not fit the schedule.
        """
        total, warmup = self.total_steps, self.warmup_steps
        if not 0 <= warmup < total:
            raise UsageError(
                f"warm-up must be 0 or more steps and shorter than the run: found {warmup} of {total} steps; train for "
                "more epochs or warm up for fewer"
            )
        if not 0 <= step <= total:
            raise UsageError(f"step must be 0 to {total}, found {step}")
        if step < warmup:
            return self.peak * step / warmup
        progress = (step - warmup) / (total - warmup)
        return self.min_lr + (self.peak - self.min_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class RunSchedule(StepSchedule):
    """The schedule of a training run, with its stop and its checkpoints."""

    last_step: int
    """Steps done at the end of this call: the whole schedule, or up to ``--max-steps``."""
    checkpoint_steps: int
    """Steps between checkpoints."""

    @classmethod
    def of(cls, config: TrainingConfig, order: SampleOrder) -> RunSchedule:
        """The schedule of a configured run."""
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
        """What the user should know about the length of the run."""
        notes = []
        if config.max_steps is not None and config.max_steps > self.total_steps:
            notes.append(
                f"--max-steps {config.max_steps} is more than the {self.total_steps} steps of --epochs "
                f"{config.epochs}, after which the run ends; give more --epochs for a longer run"
            )
        if config.ema is not None and (share := config.ema ** (self.total_steps - 1)) > EMA_START_AT_MOST:
            notes.append(
                f"--ema {config.ema} averages over about {round(1 / (1 - config.ema)):,} steps and the run has "
                f"{self.total_steps:,}: {share:.1%} of student-ema.safetensors will be the student of the first step; "
                f"with --ema {0.01 ** (1 / self.total_steps):.2g} it would be 1%"
            )
        return notes
