"""Mean IoU of a segmentation from frozen patch features: nearest neighbours, or a linear head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from lookonce.shared.errors import NumericalError, SourceError, UsageError
from lookonce.shared.normalisation import Normalisation
from lookonce.shared.printing import Result, count_text
from lookonce.shared.progress_bar import progress_bar
from lookonce.shared.randomness import random_permutation
from lookonce.train.evaluation.encoders.encoder import PatchEncoder
from lookonce.train.evaluation.knn import TEMPERATURE
from lookonce.train.evaluation.segmentation.heads import Head, KnnHead, train_linear_head
from lookonce.train.evaluation.segmentation.masked_images import MaskedImage, MaskedSplit
from lookonce.train.evaluation.segmentation.scores import ConfusionMatrix, patch_classes, pixel_classes
from lookonce.train.evaluation.segmentation.segment_config import MOST_CLASSES, SegmentConfig

SHOWN = 8
"""Most classes that a note or a line lists."""


@dataclass(frozen=True, kw_only=True)
class SegmentResult(Result):
    """Mean IoU of a segmentation, and everything that such a number depends on."""

    evaluated: Mapping[str, Any]
    """Document of the model, see ``Encoder.document``."""
    normalisation: Normalisation
    """Of the model's pixels."""
    block: int
    """Number of the block that was read, from 1."""
    blocks: int
    """Blocks of the model."""
    features: int
    """Values of a patch's feature."""
    config: SegmentConfig
    grid: int
    """Patches along the side of a window."""
    mask_sizes: tuple[tuple[int, int], tuple[int, int]]
    """Width and height of the smallest and of the largest test mask (by pixels)."""
    train_images: int
    test_images: int
    train_patches: int
    """Training patches that were used."""
    train_pixels: NDArray[np.int64]
    """Pixels of each class in the training masks, int64 (classes,)."""
    confusion: ConfusionMatrix
    """Of the test pixels."""
    data: Mapping[str, Any]
    """Folders and digests by split."""

    @property
    def untaught(self) -> list[int]:
        """Classes of the test pixels that no training mask contains."""
        in_test = self.confusion.counts.sum(axis=1) > 0
        return np.flatnonzero(in_test & (self.train_pixels == 0)).tolist()

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        iou, test_pixels = self.confusion.iou, self.confusion.counts.sum(axis=1).tolist()
        return {
            "method": "segment",
            "head": {
                "name": self.config.head,
                **self.config.document(),
                **({"temperature": TEMPERATURE} if self.config.head == "knn" else {}),
            },
            "evaluated": dict(self.evaluated),
            "normalisation": self.normalisation.document(),
            "block": self.block,
            "blocks": self.blocks,
            "features": self.features,
            "view_size": self.evaluated["view_size"],
            "grid": self.grid,
            "windows": self.config.windows,
            "smallest_mask": list(self.mask_sizes[0]),
            "largest_mask": list(self.mask_sizes[1]),
            "mean_iou": self.confusion.mean_iou,
            "pixel_accuracy": self.confusion.pixel_accuracy,
            "classes": self.confusion.classes,
            "classes_in_mean": sum(one is not None for one in iou),
            "classes_without_training": self.untaught,
            "ignored": list(self.config.ignored),
            "per_class": [
                {"class": number, "iou": iou[number], "train_pixels": train, "test_pixels": test_pixels[number]}
                for number, train in enumerate(self.train_pixels.tolist())
            ],
            "train_images": self.train_images,
            "test_images": self.test_images,
            "train_patches": self.train_patches,
            "seed": self.config.seed,
            "data": dict(self.data),
        }

    def text(self) -> str:
        """Lines for people."""
        name, weights = f"{self.evaluated['kind']} {self.evaluated['name']}", self.evaluated["weights"]
        ignored = f", ignored: {_listed(self.config.ignored)}" if self.config.ignored else ""
        size, side = self.evaluated["view_size"], self.grid
        cut = "sliding squares of the shorter side" if self.config.windows == "slide" else "the central square"
        (low_w, low_h), (high_w, high_h) = self.mask_sizes
        sizes = f"{low_w} x {low_h}" + (f" to {high_w} x {high_h}" if (low_w, low_h) != (high_w, high_h) else "")
        if self.config.head == "knn":
            head = f"k-NN of patches, k = {self.config.k}"
        else:
            head = f"batch norm and 1 x 1 convolution, {count_text(self.config.epochs, 'epoch')}"
        iou = self.confusion.iou
        shown = [f"{number}: {one:.1%}" for number, one in enumerate(iou) if one is not None]
        lines = [
            f"{name} ({weights})" if weights else name,
            f"images    {self.train_images} train, {self.test_images} test, {len(iou)} classes{ignored}",
            f"features  {self.features} values of each of {side} x {side} patches, block {self.block} of {self.blocks}",
            f"views     {self.config.windows}: {cut}, resized to {size} x {size} px",
            f"masks     {sizes} px, at their own size",
            f"head      {head}, {count_text(self.train_patches, 'training patch', 'es')}",
            f"mean IoU  {self.confusion.mean_iou:.2%} over {count_text(len(shown), 'class', 'es')}",
            f"pixels    {self.confusion.pixel_accuracy:.2%} right",
            *(
                f"{'IoU' if start == 0 else '':<9} {'  '.join(shown[start : start + SHOWN])}"
                for start in range(0, len(shown), SHOWN)
            ),
        ]
        if self.untaught:
            lines.append(f"note      the training masks lack classes of the test masks: {_listed(self.untaught)}")
        return "\n".join(lines)


def evaluate_segmentation(
    encoder: PatchEncoder, train: MaskedSplit, test: MaskedSplit, config: SegmentConfig, *, batch_size: int = 64
) -> SegmentResult:
    """Segment the test images by the training images; every mask is compared at its own size.

    Args:
        encoder: the model, with the pool ``patches``.
        train: images and masks to learn from.
        test: images and masks to compare with.
        config: settings.
        batch_size: windows per forward pass.

    Raises:
        UsageError: fewer than two classes in the training masks, or two training patches; no test pixel that counts.
        SourceError: an image or mask cannot be read, their sizes differ, or a class index is out of range.
        NumericalError: features are NaN or infinite.
    """
    labels = _count_classes(train, test, config)
    head, train_patches = _trained_head(encoder, train, labels, config, batch_size)
    confusion, sizes, shape = ConfusionMatrix(labels.classes), set(), torch.Size()
    with _progress(test, "segment test") as bar:
        for batch in test.batches(range(len(test)), encoder.view_size, config.windows, batch_size):
            features = _features(encoder, test, batch)
            shape = features[0].shape
            for image, features_WND in zip(batch, features, strict=True):
                scores_WNC = head(features_WND.flatten(0, 1)).reshape(*features_WND.shape[:2], -1)
                for rows, predicted in pixel_classes(scores_WNC, image):
                    confusion.add(labels.of(image.mask[rows]), predicted.cpu().numpy())
                sizes.add((image.mask.shape[1], image.mask.shape[0]))
                bar.update()
    if not confusion.counts.any():
        raise UsageError(
            f"{test.masks.root}: expected pixels that count, but all that the windows cover have an ignored class "
            f"({_listed(config.ignored)}); check --ignore and --val-masks"
        )
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return SegmentResult(
        evaluated=encoder.document(),
        normalisation=encoder.normalisation,
        block=encoder.block,
        blocks=encoder.block_count,
        features=shape[2],
        config=config,
        grid=round(shape[1] ** 0.5),
        mask_sizes=(ordered[0], ordered[-1]),
        train_images=len(train),
        test_images=len(test),
        train_patches=train_patches,
        train_pixels=labels.train_pixels,
        confusion=confusion,
        data={split.name: split.document() for split in (train, test)},
    )


@dataclass(frozen=True)
class _Labels:
    """From class indices to labels: ignored ones become -1."""

    table: NDArray[np.int64]
    """Label of each index, int64 (65536,)."""
    train_pixels: NDArray[np.int64]
    """Pixels of each class in the training masks."""

    @property
    def classes(self) -> int:
        return len(self.train_pixels)

    def of(self, mask: NDArray[np.uint16]) -> NDArray[np.int64]:
        return self.table[mask]


def _count_classes(train: MaskedSplit, test: MaskedSplit, config: SegmentConfig) -> _Labels:
    """Read all masks once, before anything is computed."""
    ignored = np.isin(np.arange(MOST_CLASSES), config.ignored)
    counts = {}
    for split in (train, test):
        counts[split.name] = np.zeros(MOST_CLASSES, dtype=np.int64)
        with _progress(split, f"read {split.name} masks") as bar:
            for row, mask in enumerate(split.masks_in_order()):
                in_mask = np.bincount(mask.ravel(), minlength=MOST_CLASSES)
                in_mask[ignored] = 0
                highest = int(in_mask.nonzero()[0].max(initial=0))
                if config.classes is not None and highest >= config.classes:
                    raise SourceError(
                        f"{split.masks.root / split.pairs[row][1].key}: expected class indices from 0 to "
                        f"{config.classes - 1} (--classes {config.classes}), found {highest}; correct --classes, or "
                        f"name the index in --ignore (now: {config.ignore})"
                    )
                counts[split.name] += in_mask
                bar.update()
    in_train = np.flatnonzero(counts[train.name]).tolist()
    if len(in_train) < 2:
        raise UsageError(
            f"{train.masks.root}: expected at least 2 classes in the training masks, found {len(in_train)} "
            f"({_listed(in_train) or 'all pixels are ignored'}); with one class every answer is right"
        )
    classes = config.classes or 1 + int(max(one.nonzero()[0].max(initial=0) for one in counts.values()))
    return _Labels(np.where(ignored, -1, np.arange(MOST_CLASSES)), counts[train.name][:classes])


def _trained_head(
    encoder: PatchEncoder, train: MaskedSplit, labels: _Labels, config: SegmentConfig, batch_size: int
) -> tuple[Head, int]:
    """The head, and the number of training patches that made it; it alone holds what it needs of them."""
    features_MD, labels_M = _training_patches(encoder, train, labels, config, batch_size)
    if config.head == "knn":
        return KnnHead(features_MD, labels_M, k=config.k, classes=labels.classes), len(features_MD)
    return train_linear_head(features_MD, labels_M, config, labels.classes), len(features_MD)


def _training_patches(
    encoder: PatchEncoder, train: MaskedSplit, labels: _Labels, config: SegmentConfig, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Features float32 (M, D) and labels int64 (M,) of at most ``config.train_patches`` patches."""
    chosen = sorted(random_permutation(len(train), "segmentation images", config.seed)[: config.train_patches].tolist())
    most = config.train_patches // len(chosen)
    features: list[Tensor] = []
    found: list[Tensor] = []
    with _progress(train, "encode train", len(chosen)) as bar:
        for batch in train.batches(chosen, encoder.view_size, config.windows, batch_size):
            for image, features_WND in zip(batch, _features(encoder, train, batch), strict=True):
                grid = round(features_WND.shape[1] ** 0.5)
                classes = np.concatenate(
                    [
                        patch_classes(labels.of(image.window_mask(window)), grid, labels.classes)
                        for window in range(len(image.views))
                    ]
                )
                kept = np.flatnonzero(classes >= 0)
                if len(kept) > most:
                    key = train.pairs[image.row][0].key
                    kept = np.sort(kept[random_permutation(len(kept), "segmentation patches", config.seed, key)[:most]])
                features.append(features_WND.flatten(0, 1)[torch.from_numpy(kept).to(encoder.device)])
                found.append(torch.from_numpy(classes[kept]))
                bar.update()
    features_MD = torch.cat(features)
    if len(features_MD) < 2:
        raise UsageError(
            f"{train.images.root}: expected at least 2 training patches with a class, found {len(features_MD)}; give "
            "more images, or check --ignore"
        )
    return features_MD, torch.cat(found).to(encoder.device)


def _features(encoder: PatchEncoder, split: MaskedSplit, batch: list[MaskedImage]) -> list[Tensor]:
    """Features of the windows of each image, float32 (W, N, D), in one forward pass."""
    features_BND = encoder(np.concatenate([image.views for image in batch]))
    parts = torch.split(features_BND, [len(image.views) for image in batch])
    for image, part in zip(batch, parts, strict=True):
        if not bool(part.isfinite().all()):
            raise NumericalError(
                f"{split.name}: the features of {split.pairs[image.row][0].key} are NaN or infinite; the weights are "
                "damaged or from a training that diverged"
            )
    return list(parts)


def _progress(split: MaskedSplit, label: str, total: int | None = None) -> tqdm[Any]:
    return progress_bar(total=len(split) if total is None else total, unit="image", label=label, brief=True)


def _listed(numbers: list[int] | tuple[int, ...]) -> str:
    rest = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return ", ".join(map(str, numbers[:SHOWN])) + rest
