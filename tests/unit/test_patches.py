"""Patches are cut row by row, with (row, column, channel) inside, and go together again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookonce.shared.errors import UsageError
from lookonce.shared.patches import patchify, unpatchify


def test_order_of_patches_and_of_values_inside() -> None:
    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    patches = patchify(pixels, 2)
    assert patches.shape == (6, 12)
    for row in range(3):
        for column in range(2):
            expected = pixels[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(-1)
            np.testing.assert_array_equal(patches[2 * row + column], expected)


@given(
    batch=st.lists(st.integers(1, 3), max_size=2),
    grid=st.integers(1, 5),
    patch=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_unpatchify_inverts_patchify(batch: list[int], grid: int, patch: int, seed: int) -> None:
    shape = (*batch, grid * patch, grid * patch, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    patches = patchify(pixels, patch)
    assert patches.dtype == np.uint8
    assert patches.flags.c_contiguous
    assert patches.shape == (*batch, grid * grid, patch * patch * 3)
    np.testing.assert_array_equal(unpatchify(patches, patch), pixels)


def test_views_of_other_arrays_are_cut_right() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(patchify(pixels[:, ::-1], 4), patchify(pixels[:, ::-1].copy(), 4))


@pytest.mark.parametrize(("shape", "patch"), [((225, 224, 3), 16), ((224, 220, 3), 16), ((8, 8, 3), 0)])
def test_sides_that_do_not_divide(shape: tuple[int, ...], patch: int) -> None:
    with pytest.raises(UsageError, match=rf"patch size {patch}, found {shape[0]} x {shape[1]}"):
        patchify(np.zeros(shape, np.uint8), patch)


def test_shapes_that_are_no_images_or_patches() -> None:
    with pytest.raises(UsageError, match="height, width, 3"):
        patchify(np.zeros((8, 8, 4), np.uint8), 4)
    with pytest.raises(UsageError, match="square number"):
        unpatchify(np.zeros((3, 12), np.uint8), 2)
    with pytest.raises(UsageError, match=r"patches, 12"):
        unpatchify(np.zeros((4, 27), np.uint8), 2)
