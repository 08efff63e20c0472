"""Stops a run that diverges, and names the place of the first non-finite number."""

# Shapes: B samples, n tokens, L aligned levels, C channels.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lookonce.shared.errors import NumericalError
from lookonce.train.data.batch import Batch
from lookonce.train.data.sample_order import batch_parts
from lookonce.train.model.alignment_step import AlignmentStep
from lookonce.train.model.sharded_tensors import local_tensor
from lookonce.train.setup import TrainingSetup

_TRY = "Try a smaller --base-lr, more --warmup-epochs, or --precision fp32"


@dataclass(frozen=True)
class BadValue:
    """Where a forward pass has its first non-finite values."""

    place: str
    """``in sample 'a/b.jpg', seed 3 (CACHE), after block 2 of the student``."""
    stored: bool = False
    """Whether the cache contains them."""


class FirstBadLoss:
    """Records the first step whose loss is NaN or infinite, on the device of the losses, without waiting for it."""

    def __init__(self) -> None:
        self._step: Tensor | None = None
        self._level_losses: Tensor | None = None

    def record(self, step: int, loss: Tensor, level_losses: Tensor) -> None:
        """Record a step's loss (scalar) and those of its levels (L,)."""
        if self._step is None or self._level_losses is None:
            self._step, self._level_losses = torch.full_like(loss, -1.0, dtype=torch.float64), level_losses.clone()
        bad = (self._step < 0) & ~torch.isfinite(loss)
        self._step = torch.where(bad, float(step), self._step)
        self._level_losses = torch.where(bad, level_losses, self._level_losses)

    @property
    def step(self) -> int | None:
        """The step, or None if all losses were finite; waits for the device."""
        return None if self._step is None or float(self._step) < 0 else int(self._step)

    def bad_levels(self, names: Sequence[str]) -> list[str]:
        """Names of the levels whose loss was not finite in that step."""
        finite = [] if self._level_losses is None else torch.isfinite(self._level_losses).tolist()
        return [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]


def find_bad_value_in_step(setup: TrainingSetup, step: int, parts: int, mine: range) -> BadValue | None:
    """:func:`find_bad_value` in this process's parts of a step, whose batches are read again.

    Args:
        setup: the run, with the parameters that gave the loss.
        step: 0-based.
        parts: number of parts of the global batch.
        mine: numbers of this process's parts.
    """
    samples = setup.input.order.step(step)
    for number in mine:
        part = batch_parts(len(samples.rows), parts)[number]
        batch = setup.input.batches.batch(samples, part).to(setup.device)
        names = setup.input.batches.names(samples.part(part if part.stop > part.start else slice(0, 1)))
        if found := find_bad_value(setup.model, batch, names, setup.level_names):
            return found
    return None


def find_bad_value(
    model: AlignmentStep, batch: Batch, samples: Sequence[str], levels: Sequence[str]
) -> BadValue | None:
    """Find the first non-finite values of a forward pass: in stored targets, the student, or predictions.

    Args:
        model: with the parameters that gave the loss.
        batch: on the model's device.
        samples: name of each sample, in the batch's order.
        levels: name of each aligned level, teacher after teacher.

    Returns:
        None if every value is finite.
    """
    with torch.no_grad():
        features = model.student(batch.visible_pixels, batch.visible_ids, batch.branch_scales)
        first = 0
        for teacher, stored in zip(model.teachers, batch.targets, strict=True):
            targets_BnLC = teacher.targets(stored)  # type: ignore[operator]
            bad = (~torch.isfinite(targets_BnLC)).any(dim=(1, 3)).nonzero()
            if len(bad):
                sample, level = bad[0].tolist()
                return BadValue(
                    f"in the stored targets of block {levels[first + level]} of sample {samples[sample]}", stored=True
                )
            first += targets_BnLC.shape[2]
        for number, outputs in enumerate(features, start=1):
            found = _bad_samples(outputs, samples)
            if found:
                return BadValue(f"{found}, after block {number} of the student (targets are finite)")
        first = 0
        for alignment, stored, teacher in zip(model.alignments, batch.targets, model.teachers, strict=True):
            predictions_LBnC = alignment.predict(features)
            errors = (predictions_LBnC - teacher.targets(stored).movedim(2, 0)).float().square()  # type: ignore[operator]
            for level, errors_BnC in enumerate(errors):
                found = _bad_samples(errors_BnC, samples)
                if found:
                    return BadValue(
                        f"{found}, in the prediction of block {levels[first + level]} (student and targets are finite)"
                    )
            first += len(predictions_LBnC)
    return None


def diverged_at(run: Path, step: int, levels: Sequence[str], bad: BadValue | None) -> NumericalError:
    """The error of a loss that is not finite.

    Args:
        run: the run's folder.
        step: 0-based number of the first such step.
        levels: levels whose loss is not finite.
        bad: the first bad value; None if it is unknown.
    """
    at = f" (teacher blocks {', '.join(levels)})" if levels else ""
    what = f"the loss of step {step} is not finite{at}" + (f"; first {bad.place}" if bad else "")
    advice = (
        "Run feature-cache verify --full, then extract that sample's shard again or leave its seed out with --seeds"
    )
    return diverged(run, what, advice if bad and bad.stored else _TRY)


def require_finite_parameters(run: Path, step: int, module: nn.Module) -> None:
    """Refuse parameters that are NaN or infinite, in this process's part of them.

    Raises:
        NumericalError: the message names the first one.
    """
    bad = [name for name, value in module.named_parameters() if not bool(torch.isfinite(local_tensor(value)).all())]
    if bad:
        raise diverged(run, f"parameter {bad[0]} is not finite after step {step - 1}")


def diverged(run: Path, what: str, advice: str = _TRY) -> NumericalError:
    """The error of a run that has non-finite values."""
    return NumericalError(f"{run}: {what}; training stopped and the last good checkpoint was kept. {advice}")


def _bad_samples(values_BnX: Tensor, samples: Sequence[str]) -> str:
    bad = (~torch.isfinite(values_BnX)).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if not bad:
        return ""
    return f"in every sample, such as {samples[0]}" if len(bad) == len(samples) > 1 else f"in sample {samples[bad[0]]}"
