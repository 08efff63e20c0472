"""Released views never change: literal numbers for version 1 of the recipe."""

from __future__ import annotations

import numpy as np
import pytest

from lookonce.shared.masking import mask_noise
from lookonce.shared.randomness import random_uniform, random_words
from lookonce.shared.views import ViewRecipe, draw_view

# key, seed, source height, source width: top, left, height, width, flip
VIEWS = [
    ("a.jpg", 0, 375, 500, (8, 68, 323, 382, 0)),
    ("a.jpg", 1, 375, 500, (9, 36, 276, 357, 1)),
    ("class/b.png", 0, 375, 500, (110, 24, 257, 264, 1)),
    ("ünï/ç.webp", 7, 1080, 1920, (113, 311, 679, 612, 0)),
    ("one.png", 3, 1, 1, (0, 0, 1, 1, 0)),
    ("strip.png", 0, 5000, 1, (2499, 0, 1, 1, 1)),
    ("huge.tif", 12345, 32768, 32768, (9346, 5208, 21060, 24647, 1)),
]


def test_words_of_the_stream() -> None:
    expected = [11060378583423796709, 10587612120513175309, 14628626741275336777, 2844791814617958119]
    assert random_words(4, "view", 1, 0, "a.jpg").tolist() == expected
    assert random_uniform(4, "view", 1, 0, "a.jpg").tolist() == [(word >> 11) / 2**53 for word in expected]


@pytest.mark.parametrize(("key", "seed", "height", "width", "expected"), VIEWS)
def test_views(key: str, seed: int, height: int, width: int, expected: tuple[int, ...]) -> None:
    view = draw_view(ViewRecipe(), key=key, seed=seed, source_height=height, source_width=width)
    assert view.to_row().tolist() == [*expected, height, width]


def test_mask_noise() -> None:
    expected = [
        [0.3096938352966073, 0.30937106814582815, 0.7644058808369137],
        [0.034909991372992666, 0.1296169978448387, 0.6931189979085557],
    ]
    assert mask_noise(0, 2, ["a.jpg", "class/b.png"], [0, 5], 3).tolist() == expected


def test_half_are_mirrored_over_images_and_over_seeds() -> None:
    flips = np.array(
        [
            [
                draw_view(ViewRecipe(), key=f"{n}.jpg", seed=seed, source_height=9, source_width=9).flip
                for n in range(150)
            ]
            for seed in range(100)
        ]
    )
    assert abs(flips.mean() - 0.5) < 5 * 0.5 / np.sqrt(flips.size)
    for axis in (0, 1):  # no image and no seed has one flip for all
        assert np.abs(flips.mean(axis=axis) - 0.5).max() < 5 * 0.5 / np.sqrt(flips.shape[axis])
