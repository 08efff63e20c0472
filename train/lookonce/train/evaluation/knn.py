"""Weighted k-nearest-neighbour classification of frozen features, as DINO does it (arXiv 2104.14294, appendix)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lookonce.shared.errors import UsageError
from lookonce.train.evaluation.encoders.encoder import Encoder, encode_split
from lookonce.train.evaluation.labelled_images import LabelledImages

TEMPERATURE = 0.07
CHUNK = 1024
"""Test images compared at once; bounds the memory to CHUNK x training images."""

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

    All vote when there are fewer than k. Of classes with equal votes, the first one wins.

    Args:
        train_features: float32 (M, D), M at least 1, of any length.
        train_labels: int64 (M,), 0 to classes - 1.
        test_features: float32 (T, D), T at least 1.
        k: neighbours, at least 1.
        classes: number of classes.
        temperature: positive; the lower, the more the nearest decide.

    Returns:
        int64 (T,).

    Raises:
        UsageError: k, temperature, or shapes are out of their range.

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
        _vote(test_TD[start : start + CHUNK] @ train_MD.T, train_labels, k, classes, temperature)
        for start in range(0, len(test_TD), CHUNK)
    ]
    return torch.cat(predictions)


def _vote(cosines_BM: Tensor, train_labels: Tensor, k: int, classes: int, temperature: float) -> Tensor:
    nearest_Bk, rows_Bk = cosines_BM.topk(min(k, cosines_BM.shape[1]), dim=1)
    votes_BC = torch.zeros(len(cosines_BM), classes, device=cosines_BM.device)
    votes_BC.scatter_add_(1, train_labels[rows_Bk], (nearest_Bk / temperature).exp())
    return votes_BC.argmax(dim=1)


def evaluate_knn(encoder: Encoder, images: LabelledImages, *, k: Sequence[int], batch_size: int) -> dict[str, Any]:
    """Top-1 accuracy on the test split, every training image being a possible neighbour.

    Args:
        encoder: what is evaluated.
        images: both splits.
        k: numbers of neighbours; an accuracy for each.
        batch_size: images a forward pass.

    Returns:
        JSON-compatible: ``accuracy`` by k (share, 0 to 1), ``evaluated``, counts, classes and settings.

    Raises:
        UsageError: fewer than two classes.
    """
    if len(images.classes) < 2:
        found = ", ".join(images.classes)
        raise UsageError(
            f"k-NN: expected at least 2 classes, found {len(images.classes)} ({found}): with one, every "
            "answer is right; give a folder with a class folder for each class"
        )
    train_features = encode_split(encoder, images.train, batch_size)
    test_features = encode_split(encoder, images.test, batch_size)
    train_labels, test_labels = (
        torch.from_numpy(split.labels).to(train_features.device) for split in (images.train, images.test)
    )
    evaluated: Mapping[str, Any] = encoder.document()
    accuracy = {}
    for count in k:
        predicted = knn_predict(train_features, train_labels, test_features, k=count, classes=len(images.classes))
        accuracy[str(count)] = int((predicted == test_labels).sum()) / len(test_labels)
    return {
        "method": "knn",
        "evaluated": dict(evaluated),
        "accuracy": accuracy,
        "temperature": TEMPERATURE,
        "features": train_features.shape[1],
        "classes": list(images.classes),
        "train_images": len(images.train),
        "test_images": len(images.test),
    }
