"""The complete, typed configuration of a training run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from lookonce.shared.config_values import (
    Count,
    Fraction,
    NonNegative,
    Range,
    convert_fields,
    subset,
)
from lookonce.shared.errors import UsageError
from lookonce.shared.normalisation import IMAGENET, RGB, Normalisation, require_rgb
from lookonce.train.batch_config import MAY_CHANGE, SAME_IN_SWEEP, BatchConfig
from lookonce.train.model.alignment_config import AlignmentConfig
from lookonce.train.names import (
    CheckpointName,
    DeviceName,
    ParallelName,
    PrecisionName,
)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(BatchConfig, AlignmentConfig):
    """One training run: which student, from which cache, by which recipe (defaults: the released recipe)."""

    out: Annotated[Path, MAY_CHANGE, SAME_IN_SWEEP]
    """Folder of the run: config.json, metrics.jsonl, TensorBoard events, checkpoints/, student.safetensors."""
    teacher_loss_weights: tuple[float, ...] | None = None
    """Weight of each cache's teacher in the loss, in the order of --shards; default: equal weights with sum 1."""
    student: str = "vit_base_patch16_224"
    """timm name of a plain vision transformer with the cache's patch size."""
    init_weights: Path | None = None
    """Start the student from the weights of this file (timm's names; safetensors or a checkpoint) or run's folder, not
    from scratch; a resumed run does not read it again."""
    mean: RGB | None = None
    """Mean that is subtracted from the student's pixels (RGB, 0 to 1); default: ImageNet's 0.485 0.456 0.406."""
    std: RGB | None = None
    """Standard deviation that they are then divided by (RGB, above 0); default: ImageNet's 0.229 0.224 0.225."""
    warmup_epochs: NonNegative = 20.0
    """Epochs of linear warm-up, at most a tenth of the run."""
    accumulate: Annotated[Count, MAY_CHANGE, SAME_IN_SWEEP] = 1
    """Forward passes per step in each process, each with its part of the batch: less memory, the same step."""
    base_lr: NonNegative = 1.5e-4
    """Learning rate for 256 samples per step; scaled by batch size / 256."""
    min_lr: NonNegative = 1e-5
    """Learning rate at the end of the cosine."""
    weight_decay: NonNegative = 0.05
    """AdamW weight decay; none on biases, norms and W."""
    drop_path: Fraction = 0.1
    """Stochastic depth of the last block, 0 up to 1."""
    ema: Annotated[float, Range(above=0, below=1)] | None = None
    """Decay of a moving average of the student, such as 0.9999, written to student-ema.safetensors; default: none."""
    precision: PrecisionName = "auto"
    """fp32, bf16 (autocast), or auto: bf16 on GPUs, fp32 on CPUs."""
    compile: Annotated[bool, MAY_CHANGE] = False
    """Compile student and alignment with torch.compile."""
    activation_checkpointing: Annotated[bool, MAY_CHANGE] = False
    """Recompute the student's blocks in the backward pass instead of storing their activations: less memory, about a
    third more arithmetic, the same numbers."""
    parallel: Annotated[ParallelName, MAY_CHANGE] = "ddp"
    """How several processes share the model: a full copy in each (ddp), or a shard in each (fsdp: ViT-L and larger)."""
    checkpoint: Annotated[CheckpointName, MAY_CHANGE] = "whole"
    """whole: one file, written by one process; sharded: a folder to which each process writes its part."""
    device: Annotated[DeviceName, MAY_CHANGE, SAME_IN_SWEEP] = "auto"
    """Where the student runs."""
    max_steps: Annotated[Count | None, MAY_CHANGE, SAME_IN_SWEEP] = None
    """Stop after this many steps of the schedule (the schedule itself keeps its length)."""
    lengthen: Annotated[bool, MAY_CHANGE, SAME_IN_SWEEP] = False
    """Train a run further than planned: give it with more --epochs than the run has. From the last checkpoint on, the
    learning rate follows the schedule of the new length, so the result differs from a run of that length."""
    resume: Annotated[str, MAY_CHANGE, SAME_IN_SWEEP] = "auto"
    """auto: resume from the newest checkpoint in --out; never: --out must be new; or a checkpoint FILE."""
    log_steps: Annotated[Count, MAY_CHANGE] = 10
    """Steps between lines of metrics.jsonl."""
    wandb: Annotated[str | None, MAY_CHANGE] = None
    """Weights & Biases project for the metrics; needs pip install 'lookonce[wandb]'."""
    checkpoint_steps: Annotated[Count | None, MAY_CHANGE] = None
    """Steps between checkpoints; default: every epoch, at least 50 steps apart."""

    def __post_init__(self) -> None:
        """Convert paths given as text; refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        convert_fields(self, Path, "out", "init_weights")
        convert_fields(self, str, "resume")
        BatchConfig.__post_init__(self)  # ranges and names of all fields
        AlignmentConfig.__post_init__(self)
        require_rgb(self.mean, self.std)
        weights = self.teacher_loss_weights
        if weights is not None and len(weights) != len(self.shards):
            raise UsageError(
                f"--teacher-loss-weights: {len(weights)} weights for {len(self.shards)} caches of --shards"
            )
        if weights is not None and not all(0 < weight < float("inf") for weight in weights):
            raise UsageError(f"--teacher-loss-weights {' '.join(map(str, weights))}: must be above 0 and finite")
        if self.ema is not None and (self.parallel == "fsdp" or self.checkpoint == "sharded"):
            raise UsageError("--ema: the average is not sharded; it needs --parallel ddp and --checkpoint whole")

    def alignment_config(self) -> AlignmentConfig:
        """The configuration of the alignment alone."""
        return subset(AlignmentConfig, self)

    @property
    def normalisation(self) -> Normalisation:
        """Normalisation of the student's pixels."""
        return IMAGENET.replaced(self.mean, self.std)

    def document(self) -> dict[str, Any]:
        """The run as a JSON-compatible document, for ``config.json``."""
        document = asdict(self)
        document["shards"] = [str(path) for path in self.shards]
        document["out"] = str(self.out)
        for name in ("init_weights", "cache_dir"):
            document[name] = None if document[name] is None else str(document[name])
        return document
