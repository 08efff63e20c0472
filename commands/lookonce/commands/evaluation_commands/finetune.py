"""``evaluate-student finetune``: a student trained end to end on labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from lookonce.commands.evaluation_commands.options import StudentOptions, build_student, open_images, with_normalisation
from lookonce.shared.errors import UsageError
from lookonce.train.evaluation.finetune.finetune_config import FinetuneConfig

DESCRIPTION = """Fine-tune a student end to end on train/ (layer-wise learning rates, RandAugment, mixup, cutmix, random
erasing: timm's own) and print the share of test/ that it gets right. Run it again with the same arguments to go on
where it was."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(FinetuneConfig, StudentOptions):
    """Flags of evaluate-student finetune."""

    out: Path
    """Folder of the run: config.json, metrics.jsonl, checkpoints/, results.json and the tuned model.safetensors, which
    timm loads."""
    pool: Literal["mean", "cls"] = "mean"
    """What the head looks at: the mean of the patch tokens, or the class token."""
    workers: int = 2
    """Processes that prepare images, 0 for none; a GPU is fed by a dozen. They change no number."""
    checkpoint_seconds: float = 300.0
    """Least time between two checkpoints."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        StudentOptions.__post_init__(self)
        FinetuneConfig.__post_init__(self)
        for name in ("workers", "checkpoint_seconds"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: must not be negative")


def run_finetune(options: FinetuneOptions) -> Mapping[str, Any]:
    """Fine-tune; see ``lookonce.api.finetune_student`` for what is returned."""
    images = open_images(options, "fine-tuning")
    from lookonce.train.evaluation.finetune.fine_tuning import finetune_student

    config = FinetuneConfig(**{field.name: getattr(options, field.name) for field in fields(FinetuneConfig)})
    encoder = build_student(options, options.pool)
    result = finetune_student(
        encoder,
        images,
        config,
        out=options.out,
        pool=options.pool,
        batch_size=options.batch_size,
        workers=options.workers,
        checkpoint_seconds=options.checkpoint_seconds,
    )
    return with_normalisation(result, encoder)


def summarise_finetune(result: Mapping[str, Any]) -> str:
    """The result as a few lines for people."""
    evaluated, recipe = result["evaluated"], result["recipe"]
    return "\n".join(
        [
            f"{evaluated['kind']} {evaluated['name']}" + (f" ({evaluated['weights']})" if evaluated["weights"] else ""),
            f"images    {result['train_images']} train, {result['test_images']} test, {len(result['classes'])} classes",
            (
                f"tuned     {recipe['epochs']} epochs, {result['steps']} steps, views of {evaluated['view_size']} px, "
                f"pool {evaluated['pool']}"
            ),
            f"train     loss {result['loss']:.4f} in the last epoch, on augmented images",
            f"test      {result['accuracy']:.2%} right",
            f"run       {result['out']}",
        ]
    )
