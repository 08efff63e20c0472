from __future__ import annotations

import pytest

from lookonce.shared.errors import UsageError
from lookonce.train.model.layer_weights import aligned_blocks, layer_weights


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("top1", (0, 0, 0, 1)),
        ("top4", (0.25, 0.25, 0.25, 0.25)),
        ("mean", (0.25, 0.25, 0.25, 0.25)),
        ("out", (0, 0, 0, 1)),
        ("mid0", (1, 0, 0, 0)),
        ("mid2", (0, 0, 1, 0)),
        ("linear-decay", (0, 1 / 6, 2 / 6, 3 / 6)),
        ("linear_decay", (0, 1 / 6, 2 / 6, 3 / 6)),
    ],
)
def test_weights_of_four_blocks(name: str, expected: tuple[float, ...]) -> None:
    assert layer_weights(name, 4) == expected


def test_aligned_blocks_are_one_based_and_leave_out_zero_weights() -> None:
    assert aligned_blocks("mid2", 4) == (3,)
    assert aligned_blocks("linear-decay", 4) == (2, 3, 4)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match="topK, midK, mean, out, linear-decay"):
        layer_weights("bottom5", 12)


@pytest.mark.parametrize("name", ["top0", "top5", "mid4", "top", "top-1"])
def test_numbers_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        layer_weights(name, 4)


def test_weights_that_leave_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="no block to align"):
        layer_weights("linear-decay", 1)
    with pytest.raises(UsageError, match="at least one block"):
        layer_weights("mean", 0)
