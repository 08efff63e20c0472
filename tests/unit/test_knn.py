from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lookonce.shared.errors import UsageError
from lookonce.train.evaluation import knn
from lookonce.train.evaluation.knn import knn_predict


def plain_knn(train: Tensor, labels: Tensor, test: Tensor, k: int, classes: int, temperature: float) -> list[int]:
    """The definition, one test image and one neighbour at a time."""
    predictions = []
    for image in test.tolist():
        cosines = []
        for row, other in enumerate(train.tolist()):
            dot = sum(a * b for a, b in zip(image, other, strict=True))
            cosines.append((dot / math.hypot(*image) / math.hypot(*other), row))
        votes = [0.0] * classes
        for cosine, row in sorted(cosines, reverse=True)[:k]:
            votes[int(labels[row])] += math.exp(cosine / temperature)
        predictions.append(votes.index(max(votes)))
    return predictions


@pytest.mark.parametrize("k", [1, 3, 10, 40])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_predictions_are_those_of_a_plain_loop(k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(k)
    train, test = torch.randn(40, 6, generator=generator), torch.randn(25, 6, generator=generator)
    labels = torch.randint(0, 4, (40,), generator=generator)
    predicted = knn_predict(train, labels, test, k=k, classes=4, temperature=temperature)
    assert predicted.tolist() == plain_knn(train, labels, test, k, 4, temperature)
    assert predicted.dtype == torch.int64


def test_chunks_do_not_change_the_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(30, 5, generator=generator), torch.randn(17, 5, generator=generator)
    labels = torch.randint(0, 3, (30,), generator=generator)
    whole = knn_predict(train, labels, test, k=5, classes=3)
    monkeypatch.setattr(knn, "CHUNK", 4)
    assert torch.equal(knn_predict(train, labels, test, k=5, classes=3), whole)


def test_the_length_of_features_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(1)
    train, test = torch.randn(30, 5, generator=generator), torch.randn(9, 5, generator=generator)
    labels = torch.randint(0, 3, (30,), generator=generator)
    scaled = train * torch.linspace(0.01, 100, 30)[:, None]
    expected = knn_predict(train, labels, test, k=5, classes=3)
    assert torch.equal(knn_predict(scaled, labels, test * 7, k=5, classes=3), expected)


def test_near_neighbours_outvote_more_numerous_far_ones_at_a_low_temperature() -> None:
    train = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    labels, test = torch.tensor([2, 1, 1]), torch.tensor([[1.0, 0.0]])
    assert knn_predict(train, labels, test, k=3, classes=3, temperature=0.07).tolist() == [2]
    assert knn_predict(train, labels, test, k=3, classes=3, temperature=10.0).tolist() == [1]


@pytest.mark.parametrize("labels", [[2, 1], [1, 2]])
def test_of_equal_votes_the_first_class_wins(labels: list[int]) -> None:
    train = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    assert knn_predict(train, torch.tensor(labels), torch.tensor([[1.0, 0.0]]), k=2, classes=3).tolist() == [1]


def test_all_vote_where_there_are_fewer_than_k() -> None:
    train = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    labels, test = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    at_most = knn_predict(train, labels, test, k=3, classes=2)
    assert torch.equal(knn_predict(train, labels, test, k=1000, classes=2), at_most)
    assert at_most.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("k", "temperature", "labels"), [(0, 0.07, [0, 1]), (1, 0.0, [0, 1]), (1, float("nan"), [0, 1]), (1, 0.07, [0])]
)
def test_values_out_of_range_are_refused(k: int, temperature: float, labels: list[int]) -> None:
    with pytest.raises(UsageError, match="k-NN: expected"):
        knn_predict(torch.eye(2), torch.tensor(labels), torch.eye(2), k=k, classes=2, temperature=temperature)


def test_an_empty_training_set_is_refused() -> None:
    with pytest.raises(UsageError, match="found 0 images"):
        knn_predict(torch.empty(0, 2), torch.empty(0, dtype=torch.int64), torch.eye(2), k=1, classes=2)
