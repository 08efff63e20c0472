"""``evaluate-student linear``: a linear probe on frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lookonce.commands.evaluation_commands.options import (
    EvaluationOptions,
    build_encoder,
    open_images,
    with_normalisation,
)
from lookonce.shared.errors import UsageError
from lookonce.shared.given_flags import refuse_without_effect
from lookonce.train.evaluation.linear_probe.probe_config import LinearProbeConfig

DESCRIPTION = """Train a linear probe (batch norm without affine, then one linear layer) on the frozen features of
train/ and print the share of test/ that it gets right. With --out, run it again with the same arguments to go on
where it was."""


@dataclass(frozen=True, kw_only=True)
class LinearOptions(LinearProbeConfig, EvaluationOptions):
    """Flags of evaluate-student linear."""

    out: Path | None = None
    """Folder of the run: config.json, metrics.jsonl, checkpoints/, results.json, probe.safetensors, and a student's
    model.safetensors with the probe as its head; without it nothing is kept."""
    checkpoint_seconds: float = 60.0
    """Least time between two checkpoints."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        EvaluationOptions.__post_init__(self)
        LinearProbeConfig.__post_init__(self)
        if self.out is None:
            refuse_without_effect(self, "--out", "checkpoint_seconds")
        if not self.checkpoint_seconds >= 0:
            raise UsageError(f"--checkpoint-seconds {self.checkpoint_seconds}: must not be negative")


def run_linear(options: LinearOptions) -> Mapping[str, Any]:
    """Train and judge the probe; see ``lookonce.api.evaluate_linear`` for what is returned."""
    images = open_images(options, "a linear probe")
    from lookonce.train.evaluation.linear_probe.linear import evaluate_linear

    config = LinearProbeConfig(**{field.name: getattr(options, field.name) for field in fields(LinearProbeConfig)})
    encoder = build_encoder(options)
    result = evaluate_linear(
        encoder,
        images,
        config,
        batch_size=options.batch_size,
        out=options.out,
        checkpoint_seconds=options.checkpoint_seconds,
    )
    return with_normalisation(result, encoder)


def summarise_linear(result: Mapping[str, Any]) -> str:
    """The result as a few lines for people."""
    evaluated, recipe = result["evaluated"], result["recipe"]
    views = "fresh crops and flips" if recipe["augment"] == "crop-flip" else "centre views"
    lines = [
        f"{evaluated['kind']} {evaluated['name']}" + (f" ({evaluated['weights']})" if evaluated["weights"] else ""),
        f"images    {result['train_images']} train, {result['test_images']} test, {len(result['classes'])} classes",
        f"features  {result['features']} values ({evaluated['pool']}), views of {evaluated['view_size']} px",
        f"probe     {recipe['optimizer']}, {recipe['epochs']} epochs of {views}, {result['steps']} steps",
        f"train     {result['train_accuracy']:.2%} right, loss {result['loss']:.4f} in the last epoch",
        f"test      {result['accuracy']:.2%} right",
    ]
    return "\n".join([*lines, f"run       {result['out']}"] if result["out"] else lines)
