"""A run that diverges is stopped early, with a sentence that says where the first bad number is."""

# Shapes: B samples, n tokens, L aligned levels, C channels.

from __future__ import annotations

from collections.abc import Sequence
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


class FirstBadLoss:
    """Remembers the first step whose loss was NaN or infinite, where the losses are: nothing waits for the device."""

    def __init__(self) -> None:
        self._step: Tensor | None = None
        self._level_losses: Tensor | None = None

    def note(self, step: int, loss: Tensor, level_losses: Tensor) -> None:
        """Look at a step's loss (scalar) and those of its levels (L,)."""
        if self._step is None or self._level_losses is None:
            self._step, self._level_losses = torch.full_like(loss, -1.0, dtype=torch.float64), level_losses.clone()
        bad = (self._step < 0) & ~torch.isfinite(loss)
        self._step = torch.where(bad, float(step), self._step)
        self._level_losses = torch.where(bad, level_losses, self._level_losses)

    @property
    def step(self) -> int | None:
        """The step, or None while all were finite; waits for the device."""
        return None if self._step is None or float(self._step) < 0 else int(self._step)

    def bad_levels(self, names: Sequence[str]) -> list[str]:
        """Which of the levels were not finite then."""
        fine = [] if self._level_losses is None else torch.isfinite(self._level_losses).tolist()
        return [name for name, one in zip(names, fine, strict=True) if not one]


def blame_step(setup: TrainingSetup, step: int, parts: int, mine: range) -> tuple[str, bool] | None:
    """:func:`blame` of a step's parts of the global batch that this process computes, read once more.

    Args:
        setup: of the run, its model as it was when the loss was computed.
        step: 0-based.
        parts: how many parts the global batch is cut into.
        mine: which of them are this process's.
    """
    samples = setup.input.order.step(step)
    for number in mine:
        part = batch_parts(len(samples.rows), parts)[number]
        batch = setup.input.batches.batch(samples, part).to(setup.device)
        names = setup.input.batches.names(samples.part(part if part.stop > part.start else slice(0, 1)))
        if found := blame(setup.model, batch, names, setup.level_names):
            return found
    return None


def blame(model: AlignmentStep, batch: Batch, samples: Sequence[str], levels: Sequence[str]) -> tuple[str, bool] | None:
    """The first sample of a batch whose loss is not finite, and what in it is not.

    Args:
        model: as it was when the loss was computed.
        batch: on the model's device.
        samples: each sample's name, in the batch's order.
        levels: name of each aligned level of each teacher in turn.

    Returns:
        A phrase, and whether the stored targets are to blame; None where every number is finite.
    """
    with torch.no_grad():
        features = model.student(batch.visible_pixels, batch.visible_ids, batch.branch_scales)
        first = 0
        for teacher, stored in zip(model.teachers, batch.targets, strict=True):
            targets_BnLC = teacher.targets(stored)  # type: ignore[operator]
            bad = (~torch.isfinite(targets_BnLC)).any(dim=(1, 3)).nonzero()
            if len(bad):
                sample, level = bad[0].tolist()
                return (
                    f"in sample {samples[sample]}, whose stored targets of block {levels[first + level]} hold it",
                    True,
                )
            first += targets_BnLC.shape[2]
        for number, outputs in enumerate(features, start=1):
            found = _bad_samples(outputs, samples)
            if found:
                return f"{found}, behind block {number} of the student (targets are finite)", False
        first = 0
        for alignment, stored, teacher in zip(model.alignments, batch.targets, model.teachers, strict=True):
            predictions_LBnC = alignment.predict(features)
            errors = (predictions_LBnC - teacher.targets(stored).movedim(2, 0)).float().square()  # type: ignore[operator]
            for level, errors_BnC in enumerate(errors):
                found = _bad_samples(errors_BnC, samples)
                if found:
                    return (
                        f"{found}, in the prediction of block {levels[first + level]} (student and targets are finite)",
                        False,
                    )
            first += len(predictions_LBnC)
    return None


def diverged_at(run: Path, step: int, levels: Sequence[str], blamed: tuple[str, bool] | None) -> NumericalError:
    """The error of a loss that is not finite.

    Args:
        run: the run's folder.
        step: 0-based, the first such one.
        levels: the levels whose loss is not finite.
        blamed: see :func:`blame`; None where it is not known.
    """
    at = f" (teacher blocks {', '.join(levels)})" if levels else ""
    phrase, stored = blamed or ("", False)
    what = f"the loss of step {step} is not finite{at}" + (f"; first {phrase}" if phrase else "")
    advice = "See feature-cache verify --full; then make that sample's shard anew, or leave its seed out by --seeds"
    return diverged(run, what, advice if stored else _TRY)


def require_finite_parameters(run: Path, step: int, module: nn.Module) -> None:
    """Refuse parameters that are NaN or infinite; looked at is what this process holds of them.

    Raises:
        NumericalError: names the first one.
    """
    bad = [name for name, value in module.named_parameters() if not bool(torch.isfinite(local_tensor(value)).all())]
    if bad:
        raise diverged(run, f"parameter {bad[0]} is not finite after step {step - 1}")


def diverged(run: Path, what: str, advice: str = _TRY) -> NumericalError:
    """The error of a run whose numbers have left the finite ones."""
    return NumericalError(f"{run}: {what}; training stopped and the last good checkpoint was kept. {advice}")


def _bad_samples(values_BnX: Tensor, samples: Sequence[str]) -> str:
    bad = (~torch.isfinite(values_BnX)).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if not bad:
        return ""
    return f"in every sample, such as {samples[0]}" if len(bad) == len(samples) > 1 else f"in sample {samples[bad[0]]}"
