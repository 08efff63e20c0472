"""``evaluate-student finetune``: a student trained end to end on labelled images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lookonce.commands.evaluation_commands.options import Measure, StudentOptions, build_student, open_images
from lookonce.shared.config_values import NonNegative, NonNegativeInt
from lookonce.train.evaluation.finetune.finetune_config import FinetuneConfig

if TYPE_CHECKING:
    from lookonce.train.evaluation.finetune.fine_tuning import FinetuneResult

DESCRIPTION = """Fine-tune a student end to end on train/ (layer-wise learning rates, RandAugment, mixup, cutmix, random
erasing, all timm's) and print its accuracy on test/. Run it again with the same arguments to resume."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(StudentOptions):
    """Flags of evaluate-student finetune."""

    recipe: FinetuneConfig = field(default_factory=FinetuneConfig)
    out: Path
    """Folder of the run: config.json, metrics.jsonl, checkpoints/, results.json and the tuned model.safetensors, which
    timm loads."""
    pool: Literal["mean", "cls"] = "mean"
    """Input of the head: the mean of the patch tokens, or the class token."""
    workers: NonNegativeInt = 2
    """Processes that prepare images, 0 for none; a GPU needs about a dozen. Their number changes no result."""
    checkpoint_seconds: NonNegative = 300.0
    """Shortest time between two checkpoints, in seconds."""


def _run(options: FinetuneOptions) -> FinetuneResult:
    images = open_images(options, "fine-tuning")
    from lookonce.train.evaluation.finetune.fine_tuning import finetune_student

    return finetune_student(
        build_student(options, options.pool, options.recipe.seed),
        images,
        options.recipe,
        out=options.out,
        pool=options.pool,
        batch_size=options.batch_size,
        workers=options.workers,
        checkpoint_seconds=options.checkpoint_seconds,
    )


FINETUNE = Measure(name="finetune", description=DESCRIPTION, options=FinetuneOptions, run=_run)
