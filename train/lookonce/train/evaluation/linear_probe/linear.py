"""Linear evaluation: a linear probe trained on frozen features (MaskAlign, arXiv 2211.08887, appendix; as in MAE)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lookonce.shared.errors import UsageError
from lookonce.shared.files.atomic import write_json
from lookonce.shared.printing import count_text
from lookonce.shared.view_recipe import ViewRecipe
from lookonce.train.evaluation.encoders.encoder import Encoder, require_finite
from lookonce.train.evaluation.evaluation_folder import RESULTS, EvaluationFolder
from lookonce.train.evaluation.fit import fit
from lookonce.train.evaluation.fit_schedule import ORDER_VERSION, FitSchedule
from lookonce.train.evaluation.labelled_images import LabelledImages
from lookonce.train.evaluation.linear_probe.feature_store import delete_features, encode_in_parts
from lookonce.train.evaluation.linear_probe.probe_config import LinearProbeConfig, ProbeRecipe
from lookonce.train.evaluation.linear_probe.probe_file import save_probe
from lookonce.train.evaluation.linear_probe.probe_head import LinearProbe
from lookonce.train.evaluation.linear_probe.probe_learner import ComputedFeatures, ProbeFeatures, ProbeLearner
from lookonce.train.evaluation.result import EvaluationResult, stored_result

CROP_SCALE = (0.08, 1.0)
"""Share of the image that a training crop covers, torchvision's default, which the release uses for the probe."""
FEATURES = "features"

# Shapes: B images, M training images, T test images, D channels, C classes.


@dataclass(frozen=True, kw_only=True)
class LinearResult(EvaluationResult):
    """Accuracy of a linear probe."""

    accuracy: float
    """Share of the test images that is right, 0 to 1."""
    train_accuracy: float
    """Share of the training images that was right in the last epoch."""
    loss: float
    """Mean loss in the last epoch."""
    recipe: Mapping[str, Any]
    """Document of the complete recipe, with the seed."""
    steps: int
    features: int
    """Values of a feature."""
    files: Mapping[str, Any] | None = None
    """Names of the files in ``out``, see ``save_probe``; None without ``out``."""
    out: Path | None = None
    """Folder of the run."""

    def stored(self) -> dict[str, Any]:
        """The content of ``results.json``."""
        return {
            "method": "linear",
            "evaluated": dict(self.evaluated),
            "accuracy": self.accuracy,
            "train_accuracy": self.train_accuracy,
            "loss": self.loss,
            "recipe": dict(self.recipe),
            "steps": self.steps,
            "features": self.features,
            "classes": list(self.classes),
            "train_images": self.train_images,
            "test_images": self.test_images,
            **({} if self.files is None else {"files": dict(self.files)}),
        }

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        out = None if self.out is None else str(self.out)
        return {**self.stored(), "out": out, "normalisation": self.normalisation.document()}

    def text(self) -> str:
        """Lines for people."""
        views = "fresh crops and flips" if self.recipe["augment"] == "crop-flip" else "centre views"
        lines = [
            *self._common_lines(),
            self._features_line(self.features),
            (
                f"probe     {self.recipe['optimizer']}, {count_text(self.recipe['epochs'], 'epoch')} of {views}, "
                f"{count_text(self.steps, 'step')}"
            ),
            f"train     {self.train_accuracy:.2%} right, loss {self.loss:.4f} in the last epoch",
            f"test      {self.accuracy:.2%} right",
        ]
        return "\n".join(lines if self.out is None else [*lines, f"run       {self.out}"])


def evaluate_linear(
    encoder: Encoder,
    images: LabelledImages,
    config: LinearProbeConfig,
    *,
    batch_size: int = 64,
    out: Path | None = None,
    checkpoint_seconds: float = 60.0,
) -> LinearResult:
    """Train a linear probe on frozen features of the training images; top-1 accuracy on the test images.

    Args:
        encoder: the model.
        images: both splits.
        config: the probe's recipe.
        batch_size: images per forward pass of the encoder.
        out: folder of the run; an unfinished run in it is resumed. None keeps nothing.
        checkpoint_seconds: shortest time between checkpoints.

    Raises:
        UsageError: fewer than two training images or classes, a step of a single image, or the warm-up is as long as
            the training.
        LookonceError: see ``fit``, ``EvaluationFolder`` and ``encode_split``.
    """
    if len(images.train) < 2 or len(images.classes) < 2:
        raise UsageError(
            f"linear probe: expected at least 2 training images of at least 2 classes, found {len(images.train)} of "
            f"{len(images.classes)}"
        )
    recipe = config.recipe(len(images.train))
    schedule = FitSchedule(
        images=len(images.train),
        batch_size=recipe.probe_batch_size,
        epochs=recipe.epochs,
        warmup_epochs=recipe.warmup_epochs,
        base_lr=recipe.base_lr,
        seed=config.seed,
    )
    if schedule.images // schedule.steps_per_epoch < 2:
        raise UsageError(
            f"--probe-batch-size {recipe.probe_batch_size}: batch norm needs at least 2 images per step, but steps of "
            f"{schedule.images} training images would leave one alone; use another size"
        )
    document = {
        "evaluation": "linear",
        "evaluated": dict(encoder.document()),
        "images": images.document(),
        "recipe": {**recipe.document(), "seed": config.seed},
        "versions": {"order": ORDER_VERSION, "view": ViewRecipe.VERSION},
        "settings": {"batch_size": batch_size, "checkpoint_seconds": checkpoint_seconds},
    }
    folder = EvaluationFolder(out, document) if out else None
    with folder.exclusive() if folder else contextlib.nullcontext():
        if folder and (found := folder.results()) is not None:
            result = stored_result(
                LinearResult, folder.root / RESULTS, found, normalisation=encoder.normalisation, out=out
            )
        else:
            result = _evaluate(encoder, images, recipe, schedule, batch_size, folder, checkpoint_seconds)
        if folder:
            delete_features(folder.root / FEATURES)
    return result


def _evaluate(
    encoder: Encoder,
    images: LabelledImages,
    recipe: ProbeRecipe,
    schedule: FitSchedule,
    batch_size: int,
    folder: EvaluationFolder | None,
    checkpoint_seconds: float,
) -> LinearResult:
    seed = schedule.seed
    stored = folder.root / FEATURES if folder else None
    test_TD = encode_in_parts(encoder, images.test, batch_size, stored)
    probe = LinearProbe(test_TD.shape[1], len(images.classes), seed=seed).to(test_TD.device)
    if recipe.augment == "none":
        features: ProbeFeatures = ComputedFeatures(encode_in_parts(encoder, images.train, batch_size, stored))
    else:
        features = _DrawnFeatures(encoder, images, batch_size, seed)
    learner = ProbeLearner(probe, recipe, features, torch.from_numpy(images.train.labels).to(test_TD.device))
    last = fit(learner, schedule, folder, checkpoint_seconds=checkpoint_seconds)
    probe.eval()
    with torch.inference_mode():
        predicted = probe(test_TD).argmax(dim=1).cpu()
    result = LinearResult(
        evaluated=encoder.document(),
        normalisation=encoder.normalisation,
        classes=list(images.classes),
        train_images=len(images.train),
        test_images=len(images.test),
        accuracy=int((predicted == torch.from_numpy(images.test.labels)).sum()) / len(images.test),
        train_accuracy=last["train_accuracy"],
        loss=last["loss"],
        recipe={**recipe.document(), "seed": seed},
        steps=schedule.total_steps,
        features=test_TD.shape[1],
        files=save_probe(probe, encoder, images.classes, folder.root) if folder else None,
        out=folder.root if folder else None,
    )
    if folder:
        write_json(folder.root / RESULTS, result.stored())
    return result


class _DrawnFeatures:
    """Features of fresh views in every epoch."""

    def __init__(self, encoder: Encoder, images: LabelledImages, batch_size: int, seed: int) -> None:
        self.encoder, self.split, self.batch_size = encoder, images.train, batch_size
        self.purpose = f"linear probe {seed}"
        self.recipe = ViewRecipe(size=encoder.view_size, scale=CROP_SCALE)

    def of(self, rows: Tensor, epoch: int) -> Tensor:
        places = rows.tolist()
        batches = self.split.drawn_batches(places, self.recipe, self.batch_size, purpose=self.purpose, seed=epoch)
        features_BD = torch.cat([self.encoder(views) for views in batches])
        require_finite(features_BD, self.split, places)
        return features_BD
