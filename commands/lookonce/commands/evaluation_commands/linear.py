"""``evaluate-student linear``: a linear probe on frozen features."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lookonce.commands.evaluation_commands.options import EvaluationOptions, Measure, build_encoder, open_images
from lookonce.shared.config_values import NonNegative
from lookonce.shared.given_flags import refuse_without_effect
from lookonce.train.evaluation.linear_probe.probe_config import LinearProbeConfig

if TYPE_CHECKING:
    from lookonce.train.evaluation.linear_probe.linear import LinearResult

DESCRIPTION = """Train a linear probe (batch norm without affine, then one linear layer) on the frozen features of
train/ and print its accuracy on test/. With --out, run it again with the same arguments to resume."""


@dataclass(frozen=True, kw_only=True)
class LinearOptions(EvaluationOptions):
    """Flags of evaluate-student linear."""

    probe: LinearProbeConfig = field(default_factory=LinearProbeConfig)
    out: Path | None = None
    """Folder of the run: config.json, metrics.jsonl, checkpoints/, results.json, probe.safetensors, and a student's
    model.safetensors with the probe as its head; default: nothing is written."""
    checkpoint_seconds: NonNegative = 60.0
    """Shortest time between two checkpoints, in seconds."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        super().__post_init__()
        if self.out is None:
            refuse_without_effect(self, "--out", "checkpoint_seconds")


def _run(options: LinearOptions) -> LinearResult:
    images = open_images(options, "a linear probe")
    from lookonce.train.evaluation.linear_probe.linear import evaluate_linear

    return evaluate_linear(
        build_encoder(options, options.pool, options.probe.seed),
        images,
        options.probe,
        batch_size=options.batch_size,
        out=options.out,
        checkpoint_seconds=options.checkpoint_seconds,
    )


LINEAR = Measure(name="linear", description=DESCRIPTION, options=LinearOptions, run=_run)
