"""Weighted k-nearest-neighbour classification of frozen features, as in DINO (arXiv 2104.14294, appendix)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lookonce.shared.errors import UsageError
from lookonce.train.evaluation.encoders.encoder import Encoder, encode_split
from lookonce.train.evaluation.labelled_images import LabelledImages
from lookonce.train.evaluation.result import EvaluationResult

TEMPERATURE = 0.07
CHUNK = 1024
"""Test images compared at once; limits the memory to CHUNK x training images."""

# Shapes: M training images, T test images, D channels.


def knn_predict(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    k: int,
    classes: int,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Class of each test image: the k training images of highest cosine vote with weight exp(cosine / temperature).

    All training images vote if there are fewer than k. Of classes with equal votes, the first one wins.

    Args:
        train_features: float32 (M, D), M at least 1, of any length.
        train_labels: int64 (M,), 0 to classes - 1.
        test_features: float32 (T, D), T at least 1.
        k: neighbours, at least 1.
        classes: number of classes.
        temperature: positive; a lower one gives the nearest neighbours more weight.

    Returns:
        int64 (T,).

    Raises:
        UsageError: k, temperature or shapes are out of range.

    >>> train = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> knn_predict(train, torch.tensor([0, 1]), torch.tensor([[3.0, 1.0]]), k=2, classes=2).tolist()
    [0]
    """
    if k < 1 or not temperature > 0:
        raise UsageError(f"k-NN: expected k of at least 1 and a temperature above 0, found {k} and {temperature}")
    if len(train_features) != len(train_labels) or len(train_features) == 0:
        raise UsageError(
            f"k-NN: expected a label for each of at least one training image, found {len(train_features)} images and "
            f"{len(train_labels)} labels"
        )
    train_MD = functional.normalize(train_features, dim=1)
    test_TD = functional.normalize(test_features, dim=1)
    predictions = [
        knn_votes(test_TD[start : start + CHUNK] @ train_MD.T, train_labels, k, classes, temperature).argmax(dim=1)
        for start in range(0, len(test_TD), CHUNK)
    ]
    return torch.cat(predictions)


def knn_votes(cosines_BM: Tensor, train_labels: Tensor, k: int, classes: int, temperature: float) -> Tensor:
    """Votes for each class of the k nearest, each with weight exp(cosine / temperature).

    Args:
        cosines_BM: float32 (B, M).
        train_labels: int64 (M,), 0 to classes - 1.
        k: neighbours, at least 1; all vote if there are fewer.
        classes: number of classes.
        temperature: positive.

    Returns:
        float32 (B, classes).
    """
    nearest_Bk, rows_Bk = cosines_BM.topk(min(k, cosines_BM.shape[1]), dim=1)
    votes_BC = torch.zeros(len(cosines_BM), classes, device=cosines_BM.device)
    return votes_BC.scatter_add_(1, train_labels[rows_Bk], (nearest_Bk / temperature).exp())


@dataclass(frozen=True, kw_only=True)
class KnnResult(EvaluationResult):
    """Accuracy of k-nearest neighbours."""

    accuracy: Mapping[str, float]
    """Share of the test images that is right, 0 to 1, by k."""
    features: int
    """Values of a feature."""

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        return {
            "method": "knn",
            "evaluated": dict(self.evaluated),
            "accuracy": dict(self.accuracy),
            "temperature": TEMPERATURE,
            "features": self.features,
            "classes": list(self.classes),
            "train_images": self.train_images,
            "test_images": self.test_images,
            "normalisation": self.normalisation.document(),
        }

    def text(self) -> str:
        """Lines for people."""
        lines = [*self._common_lines(), self._features_line(self.features)]
        return "\n".join([*lines, *(f"k = {k:<5} {accuracy:.2%} right" for k, accuracy in self.accuracy.items())])


def evaluate_knn(encoder: Encoder, images: LabelledImages, *, k: Sequence[int], batch_size: int) -> KnnResult:
    """Top-1 accuracy on the test images; every training image is a possible neighbour.

    Args:
        encoder: the model.
        images: both splits.
        k: numbers of neighbours; an accuracy for each.
        batch_size: images per forward pass.

    Raises:
        UsageError: fewer than two classes.
        NumericalError: features are NaN or infinite.
        SourceError: an image cannot be read.
    """
    if len(images.classes) < 2:
        found = ", ".join(images.classes)
        raise UsageError(
            f"k-NN: expected at least 2 classes, found {len(images.classes)} ({found}): with one class "
            "every answer is right; give a folder with a class folder for each class"
        )
    train_features = encode_split(encoder, images.train, batch_size)
    test_features = encode_split(encoder, images.test, batch_size)
    train_labels, test_labels = (
        torch.from_numpy(split.labels).to(train_features.device) for split in (images.train, images.test)
    )
    accuracy: dict[str, float] = {}
    for count in k:
        predicted = knn_predict(train_features, train_labels, test_features, k=count, classes=len(images.classes))
        accuracy[str(count)] = int((predicted == test_labels).sum()) / len(test_labels)
    return KnnResult(
        evaluated=encoder.document(),
        normalisation=encoder.normalisation,
        classes=list(images.classes),
        train_images=len(images.train),
        test_images=len(images.test),
        accuracy=accuracy,
        features=train_features.shape[1],
    )
