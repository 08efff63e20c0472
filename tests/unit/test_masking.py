"""Masks: how many, which, and from what noise."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookonce.shared.errors import NumericalError, UsageError
from lookonce.shared.masking import MASK_KINDS, MASK_VERSION, draw_patches, mask_noise, visible_count, visible_patches
from lookonce.shared.randomness import random_uniform


def noise_of(batch: int, patches: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((batch, patches))


@pytest.mark.parametrize(
    ("patches", "ratio", "expected"),
    [(196, 0.7, 58), (10, 0.9, 1), (196, 0.75, 49), (256, 0.7, 76), (196, 0.0, 196), (4, 0.99, 1), (100, 0.58, 42)],
)
def test_visible_count(patches: int, ratio: float, expected: int) -> None:
    assert visible_count(patches, ratio) == expected


@given(patches=st.integers(1, 2000), hundredths=st.integers(0, 99))
def test_visible_count_is_exact_for_decimal_ratios(patches: int, hundredths: int) -> None:
    expected = max(1, int(patches * (1 - Fraction(hundredths, 100))))
    assert visible_count(patches, hundredths / 100) == expected


@pytest.mark.parametrize(("patches", "ratio"), [(196, 1.0), (196, -0.1), (196, float("nan")), (0, 0.5)])
def test_visible_count_out_of_range(patches: int, ratio: float) -> None:
    with pytest.raises(UsageError, match="expected"):
        visible_count(patches, ratio)


@pytest.mark.parametrize("kind", MASK_KINDS)
@given(batch=st.integers(1, 4), patches=st.integers(1, 40), ratio=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_masks_are_ascending_and_without_repeats(kind: str, batch: int, patches: int, ratio: float, seed: int) -> None:
    importance = np.random.default_rng(seed).random((batch, patches)).astype(np.float32)
    importance[:, ::3] = 0
    visible = visible_patches(kind, importance, noise_of(batch, patches, seed), ratio)
    assert visible.dtype == np.int64
    assert visible.shape == (batch, visible_count(patches, ratio))
    assert (np.diff(visible, axis=1) > 0).all()
    assert visible.min() >= 0
    assert visible.max() < patches


def test_attentive_is_gumbel_top_k_on_log_importance() -> None:
    importance = np.random.default_rng(1).random((50, 30)).astype(np.float32)
    noise = noise_of(50, 30)
    gumbel = -np.log(-np.log(1 - noise))
    order = np.argsort(-(np.log(importance.astype(np.float64)) + gumbel), axis=1)
    found = visible_patches("attentive", importance, noise, 0.7)
    np.testing.assert_array_equal(found, np.sort(order[:, :9], axis=1))
    # Hiding the important: the same race, its first arrivals hidden.
    hidden = visible_patches("hide-attentive", importance, noise, 0.3)
    np.testing.assert_array_equal(hidden, np.sort(order[:, 9:], axis=1))


def test_random_ignores_importance() -> None:
    noise = noise_of(8, 20)
    flat, steep = np.ones((8, 20), np.float32), np.geomspace(1, 1e-6, 160, dtype=np.float32).reshape(8, 20)
    expected = np.sort(np.argsort(noise, axis=1)[:, :5], axis=1)
    np.testing.assert_array_equal(visible_patches("random", flat, noise, 0.75), expected)
    np.testing.assert_array_equal(visible_patches("random", steep, noise, 0.75), expected)


def test_without_importance_comes_last_and_at_random() -> None:
    importance = np.zeros((4000, 12), np.float32)
    importance[:, [2, 7]] = [1e-45, 1e30]
    noise = noise_of(4000, 12)
    noise[0] = 0  # the least uniform there is
    noise[1] = 1 - 2.0**-53  # the greatest
    visible = visible_patches("attentive", importance, noise, 0.75)
    assert ((visible == 2).any(axis=1) & (visible == 7).any(axis=1)).all()
    third = visible[2:][(visible[2:] != 2) & (visible[2:] != 7)]
    counts = np.bincount(third, minlength=12)[[0, 1, 3, 4, 5, 6, 8, 9, 10, 11]]
    assert np.abs(counts - 399.8).max() < 5 * np.sqrt(399.8)
    hiding = visible_patches("hide-attentive", importance, noise, 0.75)
    assert not np.isin(hiding, [2, 7]).any()


def test_ties_go_by_patch_number() -> None:
    importance, noise = np.zeros((2, 300), np.float32), np.tile([0.5, 0.25, 0.75], (2, 100))
    earliest = np.arange(300)[1::3]  # a hundred patches tie at 0.25
    for kind in ("attentive", "random"):
        np.testing.assert_array_equal(visible_patches(kind, importance, noise, 0.8), [earliest[:60]] * 2)


@given(batch=st.integers(1, 5), patches=st.integers(1, 30), values=st.integers(1, 6), data=st.data())
def test_a_draw_is_the_stable_sort_however_many_values_tie(batch: int, patches: int, values: int, data: Any) -> None:
    noise = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, values, (batch, patches)) / values
    count = data.draw(st.integers(1, patches))
    expected = np.sort(np.argsort(noise, axis=1, kind="stable")[:, :count], axis=1)
    found = draw_patches("random", np.ones((batch, patches), np.float32), noise, count)
    np.testing.assert_array_equal(found, expected)


def test_uniform_importance_keeps_all_alike_whatever_the_kind() -> None:
    importance, noise = np.full((20000, 10), 0.1, np.float32), noise_of(20000, 10, seed=5)
    for kind in MASK_KINDS:
        kept = np.bincount(visible_patches(kind, importance, noise, 0.7).ravel(), minlength=10) / 20000
        assert np.abs(kept - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 20000), kind


def test_a_batch_is_its_rows() -> None:
    importance = np.random.default_rng(3).random((6, 16)).astype(np.float32)
    noise = noise_of(6, 16)
    for kind in MASK_KINDS:
        together = visible_patches(kind, importance, noise, 0.6)
        for row in range(6):
            alone = visible_patches(kind, importance[row : row + 1], noise[row : row + 1], 0.6)
            np.testing.assert_array_equal(alone[0], together[row])


def test_bad_requests_are_named() -> None:
    importance, noise = np.ones((2, 4), np.float32), noise_of(2, 4)
    with pytest.raises(UsageError, match="'greedy': expected one of attentive, random, hide-attentive"):
        visible_patches("greedy", importance, noise, 0.5)
    with pytest.raises(UsageError, match=r"\(2, 4\) and \(2, 3\)"):
        visible_patches("random", importance, noise[:, :3], 0.5)
    for value in (np.nan, np.inf, -0.1):
        bad = importance.copy()
        bad[1, 2] = value
        with pytest.raises(NumericalError, match="sample 1"):
            visible_patches("attentive", bad, noise, 0.5)


def test_noise_is_each_samples_own() -> None:
    noise = mask_noise(0, 3, ["a", "b", "c"], [0, 1, 0], 196)
    assert noise.shape == (3, 196)
    assert noise.dtype == np.float64
    assert noise.min() >= 0
    assert noise.max() < 1
    np.testing.assert_array_equal(noise[1], random_uniform(196, "mask", MASK_VERSION, 0, 3, 1, "b"))
    np.testing.assert_array_equal(mask_noise(0, 3, ["c"], [0], 196)[0], noise[2])
    np.testing.assert_array_equal(mask_noise(0, 3, ["b"], list(np.array([1])), 196)[0], noise[1])
    others = [mask_noise(1, 3, ["a"], [0], 196), mask_noise(0, 4, ["a"], [0], 196), mask_noise(0, 3, ["a"], [1], 196)]
    assert not any(np.array_equal(other[0], noise[0]) for other in others)
    with pytest.raises(UsageError, match="2 keys and 1 seeds"):
        mask_noise(0, 0, ["a", "b"], [0], 4)
