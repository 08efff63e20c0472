"""A run that diverges is stopped early, with a sentence that says where the first bad number is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lookonce.shared.errors import NumericalError


def require_finite_loss(run: Path, step: int, loss: Tensor, level_losses: Tensor, levels: Sequence[str]) -> None:
    """Refuse a loss that is NaN or infinite.

    Args:
        run: the run's folder, for the message.
        step: 0-based.
        loss: scalar.
        level_losses: of each aligned level, (L,).
        levels: their names.

    Raises:
        NumericalError: names the step and the levels.
    """
    if not bool(torch.isfinite(loss)):
        bad = ", ".join(name for name, fine in zip(levels, level_losses.isfinite().tolist(), strict=True) if not fine)
        where = f" (teacher blocks {bad})" if bad else ""
        raise diverged(run, f"the loss of step {step} is {float(loss)}{where}")


def require_finite_parameters(run: Path, step: int, module: nn.Module) -> None:
    """Refuse parameters that are NaN or infinite.

    Raises:
        NumericalError: names the first one.
    """
    bad = [name for name, value in module.named_parameters() if not bool(torch.isfinite(value).all())]
    if bad:
        raise diverged(run, f"parameter {bad[0]} is not finite after step {step - 1}")


def diverged(run: Path, what: str) -> NumericalError:
    """The error of a run whose numbers have left the finite ones."""
    return NumericalError(
        f"{run}: {what}; training stopped and the last good checkpoint was kept. "
        "Try a smaller --base-lr, more --warmup-epochs, or --precision fp32"
    )
