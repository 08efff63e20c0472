"""Fine-tuning a student end to end on labelled images: MaskAlign's recipe, built from timm's parts."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.data.mixup import Mixup
from torch import Tensor, nn
from torch.nn import functional

from lookonce.shared.errors import UsageError
from lookonce.shared.files.atomic import write_json
from lookonce.shared.printing import count_text
from lookonce.train.evaluation.encoders.student_encoder import StudentEncoder
from lookonce.train.evaluation.evaluation_folder import RESULTS, EvaluationFolder
from lookonce.train.evaluation.finetune.finetune_config import FinetuneConfig
from lookonce.train.evaluation.finetune.finetune_model import (
    FinetunePool,
    classifier,
    classifier_arguments,
    layer_decay_optimizer,
)
from lookonce.train.evaluation.finetune.seeded import seeded_generators
from lookonce.train.evaluation.finetune.training_views import AUGMENTATION_VERSION, TrainingViews, training_batches
from lookonce.train.evaluation.fit import fit
from lookonce.train.evaluation.fit_schedule import ORDER_VERSION, FitSchedule
from lookonce.train.evaluation.labelled_images import LabelledImages
from lookonce.train.evaluation.linear_probe.probe_file import MODEL
from lookonce.train.evaluation.result import EvaluationResult, stored_result
from lookonce.train.model.student_file import save_weights
from lookonce.train.model.timm_description import description_metadata, leave_timm_folder, timm_description

# Shapes: B images, C classes, s side of a view.


@dataclass(frozen=True, kw_only=True)
class FinetuneResult(EvaluationResult):
    """Accuracy of a fine-tuned student."""

    accuracy: float
    """Share of the test images that is right after the last epoch, 0 to 1."""
    train_accuracy: float
    """Share that was right in the last epoch, of augmented and mixed images: the class of larger weight counts."""
    loss: float
    """Mean loss in the last epoch."""
    recipe: Mapping[str, Any]
    """Document of the recipe."""
    steps: int
    files: Mapping[str, Any]
    """``model``: file name in ``out``; ``timm``: the arguments of ``timm.create_model`` for it."""
    out: Path
    """Folder of the run."""

    def stored(self) -> dict[str, Any]:
        """The content of ``results.json``."""
        return {
            "method": "finetune",
            "evaluated": dict(self.evaluated),
            "accuracy": self.accuracy,
            "train_accuracy": self.train_accuracy,
            "loss": self.loss,
            "recipe": dict(self.recipe),
            "steps": self.steps,
            "classes": list(self.classes),
            "train_images": self.train_images,
            "test_images": self.test_images,
            "files": dict(self.files),
        }

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        return {**self.stored(), "out": str(self.out), "normalisation": self.normalisation.document()}

    def text(self) -> str:
        """Lines for people."""
        evaluated = self.evaluated
        return "\n".join(
            [
                *self._common_lines(),
                (
                    f"tuned     {count_text(self.recipe['epochs'], 'epoch')}, {count_text(self.steps, 'step')}, "
                    f"views of {evaluated['view_size']} px, pool {evaluated['pool']}"
                ),
                f"train     loss {self.loss:.4f} in the last epoch, on augmented images",
                f"test      {self.accuracy:.2%} right",
                f"run       {self.out}",
            ]
        )


def finetune_student(
    evaluated: StudentEncoder,
    images: LabelledImages,
    config: FinetuneConfig,
    *,
    out: Path,
    pool: FinetunePool = "mean",
    batch_size: int = 64,
    workers: int = 2,
    checkpoint_seconds: float = 300.0,
) -> FinetuneResult:
    """Fine-tune a student on the training images; top-1 accuracy on the test images after every epoch.

    Args:
        evaluated: the student, with its device; its own weights do not change.
        images: both splits.
        config: the recipe.
        out: folder of the run; an unfinished run in it is resumed.
        pool: input of the head: the mean of the patch tokens, or the class token.
        batch_size: test images per forward pass.
        workers: processes that prepare images; their number changes no result.
        checkpoint_seconds: shortest time between checkpoints.

    Raises:
        UsageError: fewer than two classes, or batches too small to mix.
        LookonceError: see ``fit``, ``EvaluationFolder`` and ``training_batches``.
    """
    schedule = FitSchedule(
        images=len(images.train),
        batch_size=config.train_batch_size,
        epochs=config.epochs,
        warmup_epochs=config.warmup,
        base_lr=config.base_lr,
        min_lr=config.min_lr,
        seed=config.seed,
    )
    _require_enough(images, schedule, mixes=config.mixes)
    half = config.precision == "bf16" or (config.precision == "auto" and evaluated.device.type == "cuda")
    recipe = {**config.document(), "precision": "bf16" if half else "fp32"}
    document = {
        "evaluation": "finetune",
        "evaluated": {**evaluated.document(), "pool": pool},
        "images": images.document(),
        "recipe": recipe,
        "versions": {"order": ORDER_VERSION, "augmentation": AUGMENTATION_VERSION},
        "settings": {
            "batch_size": batch_size,
            "workers": workers,
            "checkpoint_seconds": checkpoint_seconds,
            "device": evaluated.device.type,
            "timm": timm.__version__,
            "torch": torch.__version__,
        },
    }
    folder = EvaluationFolder(out, document)
    with folder.exclusive():
        found = folder.results()
        if found is not None:
            result = stored_result(FinetuneResult, out / RESULTS, found, normalisation=evaluated.normalisation, out=out)
        else:
            learner = _Finetuning(evaluated, images, config, pool, batch_size=batch_size, workers=workers, half=half)
            last = fit(learner, schedule, folder, checkpoint_seconds=checkpoint_seconds)
            arguments = classifier_arguments(evaluated.student, len(images.classes), pool)
            description = timm_description(
                evaluated.student, classes=images.classes, model_args={"global_pool": arguments["global_pool"]}
            )
            metadata = {
                "classes": json.dumps(list(images.classes), ensure_ascii=False),
                "timm": json.dumps(arguments),
                **description_metadata(description),
            }
            state = {name: value.detach().cpu().contiguous() for name, value in learner.module.state_dict().items()}
            save_weights(state, metadata, out / MODEL)
            leave_timm_folder(out / MODEL, description)
            result = FinetuneResult(
                evaluated={**evaluated.document(), "pool": pool},
                normalisation=evaluated.normalisation,
                classes=list(images.classes),
                train_images=len(images.train),
                test_images=len(images.test),
                accuracy=last["accuracy"],
                train_accuracy=last["train_accuracy"],
                loss=last["loss"],
                recipe=recipe,
                steps=schedule.total_steps,
                files={"model": MODEL, "timm": arguments},
                out=out,
            )
            write_json(out / RESULTS, result.stored())
    return result


def _require_enough(images: LabelledImages, schedule: FitSchedule, *, mixes: bool) -> None:
    if len(images.classes) < 2:
        raise UsageError(f"fine-tuning: expected at least 2 classes, found {len(images.classes)}")
    smallest = schedule.images // schedule.steps_per_epoch
    if mixes and smallest < 2:
        raise UsageError(
            f"--mixup and --cutmix mix pairs, but {schedule.images} training images in steps of at most "
            f"{schedule.batch_size} leave one alone; use another --train-batch-size, or --mixup 0 --cutmix 0"
        )


class _Finetuning:
    """The classifier as a ``Learner`` of ``fit``."""

    def __init__(
        self,
        evaluated: StudentEncoder,
        images: LabelledImages,
        config: FinetuneConfig,
        pool: FinetunePool,
        *,
        batch_size: int,
        workers: int,
        half: bool,
    ) -> None:
        classes = len(images.classes)
        self.config, self.device, self.view_size = config, evaluated.device, evaluated.view_size
        self.normalisation = evaluated.student.normalisation
        self.test, self.batch_size, self.workers, self.half = images.test, batch_size, workers, half
        self.views = TrainingViews(images.train, self.view_size, config, evaluated.student.normalisation)
        self.module: nn.Module = classifier(
            evaluated.student, classes, pool, drop_path=config.drop_path, seed=config.seed
        ).to(self.device)
        self.optimizer: torch.optim.Optimizer = layer_decay_optimizer(self.module, config)
        self.mix = (
            Mixup(
                mixup_alpha=config.mixup,
                cutmix_alpha=config.cutmix,
                label_smoothing=config.label_smoothing,
                num_classes=classes,
            )
            if config.mixes
            else None
        )

    def batches(self, schedule: FitSchedule, first: int) -> Generator[tuple[Tensor, Tensor]]:
        return training_batches(
            self.views, schedule, first, even=self.config.mixes, workers=self.workers, device=self.device
        )

    def forward(self, step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, float, int]:
        pixels_B3ss, labels_B = batch
        targets, smoothing = labels_B, self.config.label_smoothing
        with seeded_generators("finetune step", AUGMENTATION_VERSION, self.config.seed, step):
            if self.mix is not None:
                pixels_B3ss, targets = self.mix(pixels_B3ss, labels_B)
                labels_B, smoothing = targets.argmax(dim=1), 0.0  # mixed targets are already smoothed
            scores_BC = self._scores(pixels_B3ss)
        loss = functional.cross_entropy(scores_BC, targets, label_smoothing=smoothing)
        right = int((scores_BC.argmax(dim=1) == labels_B).sum())
        return loss, right, len(labels_B)

    def after_epoch(self, epoch: int) -> Mapping[str, float]:
        self.module.eval()
        predicted = torch.cat([self._classes(views) for views in self.test.batches(self.view_size, self.batch_size)])
        self.module.train()
        return {"accuracy": int((predicted == torch.from_numpy(self.test.labels)).sum()) / len(self.test)}

    @torch.inference_mode()
    def _classes(self, views: NDArray[np.uint8]) -> Tensor:
        """Classes of views (B, s, s, 3): int64 (B,), on the CPU."""
        used = self.normalisation
        mean, std = (torch.tensor(values, device=self.device) for values in (used.mean, used.std))
        pixels_Bss3 = (torch.from_numpy(views).to(self.device).float() / 255 - mean) / std
        return self._scores(pixels_Bss3.permute(0, 3, 1, 2).contiguous()).argmax(dim=1).cpu()

    def _scores(self, pixels_B3ss: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            scores_BC: Tensor = self.module(pixels_B3ss)
        return scores_BC.float()
