"""Views: torchvision's crops from our own random numbers, applied to pixels, and the numbers kept for a replay."""

from __future__ import annotations

import hashlib
import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop, functional, transforms

from lookonce.shared.errors import SourceError, UsageError
from lookonce.shared.randomness import random_uniform
from lookonce.shared.views import ViewParameters, ViewRecipe, apply_view, center_view, draw_view, pixel_digest

sides = st.integers(1, 700) | st.integers(1, 5000) | st.just(1)


def noise_image(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height + width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def parameters(**changes: object) -> ViewParameters:
    values = {"top": 3, "left": 5, "height": 20, "width": 30, "flip": False, "source_height": 40, "source_width": 50}
    return ViewParameters(**(values | changes))  # type: ignore[arg-type]


class FakeTorch:
    """Just enough of torch for torchvision's ``get_params``, handing out the uniforms of our own draw."""

    def __init__(self, uniforms: np.ndarray) -> None:
        self.attempts = uniforms[1:].reshape(10, 4).tolist()
        self.attempt, self.slot = -1, 4
        self.log, self.tensor = np.log, np.array
        self.exp = lambda value: np.float64(math.exp(value))

    def _next(self) -> float:
        self.slot += 1
        return self.attempts[self.attempt][self.slot]

    def empty(self, _: int) -> SimpleNamespace:
        if self.slot >= 1:  # area and ratio are drawn: this is the next attempt
            self.attempt, self.slot = self.attempt + 1, -1
        uniform = self._next()
        return SimpleNamespace(uniform_=lambda low, high: np.float64(low + uniform * (high - low)))

    def randint(self, low: int, high: int, size: tuple[int]) -> SimpleNamespace:
        value = low + int(self._next() * (high - low))
        return SimpleNamespace(item=lambda: value)


@settings(max_examples=300, deadline=None)
@given(key=st.text(st.characters(exclude_categories=["Cs"])), seed=st.integers(0, 1000), height=sides, width=sides)
@example(key="strip", seed=0, height=5000, width=1)
@example(key="dot", seed=0, height=1, width=1)
def test_crops_are_torchvisions_for_the_same_uniforms(key: str, seed: int, height: int, width: int) -> None:
    recipe = ViewRecipe()
    found = draw_view(recipe, key=key, seed=seed, source_height=height, source_width=width)
    uniforms = random_uniform(41, "view", 1, seed, key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "torch", FakeTorch(uniforms))
        image = Image.new("L", (width, height))
        expected = RandomResizedCrop.get_params(image, list(recipe.scale), list(recipe.ratio))
    assert (found.top, found.left, found.height, found.width) == expected
    assert found.flip == (uniforms[0] < 0.5)


@settings(max_examples=300, deadline=None)
@given(
    height=sides,
    width=sides,
    seed=st.integers(0, 99),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: tuple(sorted(pair))),
    ratio=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(lambda pair: tuple(sorted(pair))),
)
def test_crops_lie_inside_the_image(
    height: int, width: int, seed: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    recipe = ViewRecipe(scale=scale, ratio=ratio)
    view = draw_view(recipe, key="any", seed=seed, source_height=height, source_width=width)  # checks the box itself
    assert 0 <= view.top <= view.top + view.height - 1 < height
    assert 0 <= view.left <= view.left + view.width - 1 < width
    assert ViewParameters.from_row(view.to_row()) == view


def test_a_view_is_a_function_of_key_and_seed() -> None:
    def draw(key: str, seed: int) -> ViewParameters:
        return draw_view(ViewRecipe(), key=key, seed=seed, source_height=375, source_width=500)

    assert draw("a.jpg", 0) == draw("a.jpg", 0)
    assert len({draw(f"{number}.jpg", seed) for number in range(30) for seed in range(30)}) > 890


def test_flip_probability_of_zero_and_one() -> None:
    for probability, expected in [(0.0, False), (1.0, True)]:
        recipe = ViewRecipe(flip_probability=probability)
        views = [draw_view(recipe, key=str(n), seed=0, source_height=9, source_width=9) for n in range(200)]
        assert {view.flip for view in views} == {expected}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("box", "source"), [((3, 5, 20, 30), (40, 50)), ((0, 0, 1, 1), (1, 1)), ((100, 0, 9, 1), (500, 1))]
)
def test_pixels_are_torchvisions(box: tuple[int, ...], source: tuple[int, int], flip: bool) -> None:
    image = noise_image(*source)
    view = ViewParameters.from_row(np.array([*box, flip, *source], np.int32))
    expected = functional.resized_crop(image, *box, size=[32, 32], interpolation=InterpolationMode.BICUBIC)
    expected = functional.hflip(expected) if flip else expected
    found = apply_view(image, view, 32)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert found.flags.writeable
    np.testing.assert_array_equal(found, np.array(expected))


def test_large_crops_pass_where_pillow_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert apply_view(noise_image(40, 50), parameters(), 8).shape == (8, 8, 3)
    assert center_view(noise_image(40, 50), 8).shape == (8, 8, 3)


def test_an_image_of_another_size_or_mode_is_refused() -> None:
    with pytest.raises(SourceError, match=r"expected 50 x 40 .* found 40 x 50"):
        apply_view(noise_image(50, 40), parameters(), 8)
    with pytest.raises(UsageError, match="mode RGB, found L"):
        apply_view(noise_image(40, 50).convert("L"), parameters(), 8)
    with pytest.raises(UsageError, match="mode RGB, found RGBA"):
        center_view(noise_image(40, 50).convert("RGBA"), 8)


@pytest.mark.parametrize(
    ("height", "width"), [(375, 500), (500, 333), (224, 224), (64, 640), (17, 23), (1, 1), (16, 1)]
)
def test_centre_view_is_resize_then_crop(height: int, width: int) -> None:
    image = noise_image(height, width)
    short = functional.resize(image, [256], InterpolationMode.BICUBIC)
    expected = functional.center_crop(short, [224, 224])
    found = center_view(image, 224)
    assert found.shape == (224, 224, 3)
    np.testing.assert_array_equal(found, np.array(expected))


def test_centre_view_of_a_strip_and_of_bad_numbers() -> None:
    assert center_view(Image.new("RGB", (1, 5000), "red"), 224).reshape(-1, 3).tolist() == [[255, 0, 0]] * 224**2
    for size, ratio in [(0, 1.1), (224, 0.9)]:
        with pytest.raises(UsageError, match="at least 1"):
            center_view(noise_image(9, 9), size, ratio)


def test_rows_of_parameters() -> None:
    view = parameters(flip=True)
    row = view.to_row()
    assert row.dtype == np.int32
    assert row.tolist() == [3, 5, 20, 30, 1, 40, 50]
    assert ViewParameters.from_row(row) == view
    for bad in (row[:6], np.where(row == 1, 2, row).astype(np.int32)):
        with pytest.raises(UsageError, match="7 numbers"):
            ViewParameters.from_row(bad)


@pytest.mark.parametrize("change", [{"top": -1}, {"left": 21}, {"height": 0}, {"height": 38}, {"source_width": 34}])
def test_a_crop_outside_the_image_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="inside the image"):
        parameters(**change)


@pytest.mark.parametrize(
    "change",
    [{"size": 0}, {"scale": (0.0, 1.0)}, {"scale": (0.5, 0.2)}, {"ratio": (2.0, 1.0)}, {"flip_probability": 1.5}],
)
def test_recipes_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="expected"):
        ViewRecipe(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"crop_scale": "0.5,0.5"}, {"scale": (0.5, 0.5)}),
        ({"crop_scale": " 1/4, 1"}, {"scale": (0.25, 1)}),
        ({"crop_ratio": "0.75,1.33333"}, {}),
        ({"crop_ratio": "0.6667,1.5"}, {"ratio": (2 / 3, 1.5)}),
        ({"crop_ratio": "0.75,1.33"}, {"ratio": (0.75, 1.33)}),
        ({"flip": 0}, {"flip_probability": 0}),
    ],
)
def test_recipes_from_options(change: dict[str, Any], expected: dict[str, Any]) -> None:
    options: dict[str, Any] = {"size": 224, "crop_scale": "0.2,1", "crop_ratio": "3/4,4/3", "flip": 0.5, **change}
    assert ViewRecipe.parse(**options) == ViewRecipe(**expected)
    assert ViewRecipe.parse(**options).document() == ViewRecipe(**expected).document()


@pytest.mark.parametrize(
    ("option", "value"),
    [("crop_scale", value) for value in ("", "0.2", "1,0.2", "0,1", "0.2,1.1", "0.2,1,2", "a,b", "nan,1", "1/0,1")]
    + [("crop_ratio", value) for value in ("0,1", "4/3,3/4", "-1,1", "1,1e400", "1 1")]
    + [("flip", value) for value in (-0.1, 1.1, float("nan"))],
)
def test_options_that_are_no_recipe(option: str, value: Any) -> None:
    options: dict[str, Any] = {"size": 224, "crop_scale": "0.2,1", "crop_ratio": "3/4,4/3", "flip": 0.5, option: value}
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} {value}: must be"):
        ViewRecipe.parse(**options)


def test_the_recipes_document_holds_all_that_changes_a_view() -> None:
    document = ViewRecipe().document()
    assert (
        json.loads(json.dumps(document))
        == document
        == {
            "name": "random-resized-crop-flip",
            "version": 1,
            "interpolation": "bicubic-antialias (Pillow)",
            "size": 224,
            "scale": [0.2, 1.0],
            "ratio": [0.75, 4 / 3],
            "flip_probability": 0.5,
        }
    )


def test_pixel_digest() -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    expected = list(hashlib.sha256(bytes(range(60))).digest()[:16])
    assert pixel_digest(pixels).tolist() == expected
    assert pixel_digest(np.asfortranarray(pixels)).tolist() == expected
    assert pixel_digest(pixels).dtype == np.uint8
    with pytest.raises(UsageError, match="found float32"):
        pixel_digest(pixels.astype(np.float32))  # type: ignore[arg-type]
