"""Linear evaluation as a whole, with an encoder of seven numbers and images of a few pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from lookonce.shared.errors import CheckpointError, NumericalError, UnreadableImageError, UsageError
from lookonce.shared.normalisation import IMAGENET
from lookonce.shared.view_recipe import ViewRecipe
from lookonce.train.evaluation.encoders.encoder import encode_split
from lookonce.train.evaluation.encoders.pooling import Pool
from lookonce.train.evaluation.encoders.student_encoder import StudentEncoder
from lookonce.train.evaluation.labelled_images import LabelledImages, open_labelled_images
from lookonce.train.evaluation.linear_probe.feature_store import encode_in_parts
from lookonce.train.evaluation.linear_probe.linear import evaluate_linear
from lookonce.train.evaluation.linear_probe.probe_config import LinearProbeConfig
from lookonce.train.model.student import Student

SMALL = LinearProbeConfig(optimizer="sgd", epochs=25, probe_batch_size=8, base_lr=3.0)
FRESH = LinearProbeConfig(optimizer="lars", epochs=4, probe_batch_size=7, base_lr=40.0)


class Killed(BaseException):
    """Like kill -9: nothing of ours catches it."""


class Colours:
    """Means and spreads of the colours; counts the images that it looked at, and may be killed before a batch."""

    view_size = 16
    device = torch.device("cpu")
    normalisation = IMAGENET

    def __init__(self, *, killed_after: int | None = None, digest: str = "sha256:0") -> None:
        self.looked_at, self.left, self.digest = 0, killed_after, digest

    def __call__(self, views: NDArray[np.uint8]) -> Tensor:
        if self.left is not None and self.looked_at >= self.left:
            raise Killed
        self.looked_at += len(views)
        values = torch.from_numpy(views).float().flatten(1, 2) / 255
        return torch.cat([values.mean(1), values.std(1), values.amax((1, 2))[:, None]], dim=1)

    def document(self) -> Mapping[str, Any]:
        return {"kind": "colours", "name": "colours", "weights": None, "weights_digest": self.digest}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noise that differ in brightness: 15 images to train, 9 to test."""
    folder = tmp_path_factory.mktemp("noise")
    generator = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 3)):
        for number, name in enumerate("abc"):
            (folder / split / name).mkdir(parents=True)
            for image in range(count):
                pixels = generator.normal(60 + 60 * number, 25, (30, 24, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{image}.png")
    return folder


@pytest.fixture
def images(folder: Path) -> LabelledImages:
    return open_labelled_images(folder)


def test_what_is_told_apart_is_found_and_images_are_looked_at_once(images: LabelledImages) -> None:
    encoder = Colours()
    result = evaluate_linear(encoder, images, SMALL, batch_size=4)
    assert (result.accuracy, result.train_accuracy) == (1.0, 1.0)
    assert encoder.looked_at == 15 + 9
    assert (result.steps, result.features, result.train_images, result.test_images) == (50, 7, 15, 9)
    assert result.recipe["optimizer"] == "sgd"
    assert result.out is None


def test_the_accuracy_is_of_the_test_images_alone(images: LabelledImages, folder: Path, tmp_path: Path) -> None:
    """Test images of class a moved among b are all wrong: 3 of 9."""
    moved = tmp_path / "moved"
    for path in folder.rglob("*.png"):
        split, name, file = path.relative_to(folder).parts
        shown = "b" if (split, name) == ("test", "a") else name
        target = moved / split / shown / f"{name}{file}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (moved / "test/a").mkdir()
    (moved / "test/a/0.png").write_bytes((folder / "test/a/0.png").read_bytes())
    result = evaluate_linear(Colours(), open_labelled_images(moved), SMALL)
    assert (result.test_images, result.accuracy) == (10, 0.7)


@pytest.mark.parametrize("optimizer", ["lars", "sgd"])
def test_fresh_views_are_seen_in_every_epoch(images: LabelledImages, optimizer: Literal["lars", "sgd"]) -> None:
    encoder = Colours()
    config = LinearProbeConfig(optimizer=optimizer, augment="crop-flip", epochs=10, probe_batch_size=8, base_lr=3.0)
    result = evaluate_linear(encoder, images, config, batch_size=4)
    assert encoder.looked_at == 9 + 10 * 15
    if optimizer == "sgd":  # 20 steps are too few for LARS, whose step is a thousandth of the weight
        assert result.accuracy == 1.0


def test_drawn_views_are_functions_of_purpose_seed_and_key(images: LabelledImages) -> None:
    def views(rows: list[int], size: int, purpose: str = "p", seed: int = 0) -> NDArray[np.uint8]:
        batches = images.train.drawn_batches(rows, ViewRecipe(size=16), size, purpose=purpose, seed=seed)
        return np.concatenate(list(batches))

    whole = views([3, 0, 7, 11], 4)
    np.testing.assert_array_equal(views([11, 3, 7, 0], 3)[[1, 3, 2, 0]], whole)
    assert not np.array_equal(views([3, 0, 7, 11], 4, seed=1), whole)
    assert not np.array_equal(views([3, 0, 7, 11], 4, purpose="q"), whole)


@pytest.mark.parametrize("config", [SMALL, FRESH])
def test_killed_anywhere_and_run_again_gives_the_same_to_the_last_bit(
    images: LabelledImages, tmp_path: Path, config: LinearProbeConfig
) -> None:
    def evaluate(out: Path, encoder: Colours) -> dict[str, Any]:
        result = evaluate_linear(encoder, images, config, batch_size=2, out=out, checkpoint_seconds=0)
        return result.stored()

    def content(out: Path) -> tuple[list[dict[str, Any]], list[bytes]]:
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        numbers = [{name: line[name] for name in line if name not in ("time", "elapsed_seconds")} for line in lines]
        return numbers, [(out / name).read_bytes() for name in ("results.json", "probe.safetensors")]

    undisturbed = Colours()
    expected = evaluate(tmp_path / "whole", undisturbed)
    for after in range(1, undisturbed.looked_at, 9):
        out = tmp_path / f"after-{after}"
        with pytest.raises(Killed):
            evaluate(out, Colours(killed_after=after))
        assert evaluate(out, Colours()) == expected
        assert content(out) == content(tmp_path / "whole")


def test_features_are_kept_until_the_end_and_damaged_ones_are_made_again(
    images: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookonce.train.evaluation.linear_probe.feature_store.PART", 6)
    expected = encode_split(Colours(), images.train, 2)
    with pytest.raises(Killed):
        encode_in_parts(Colours(killed_after=8), images.train, 2, tmp_path)
    (part,) = tmp_path.iterdir()
    again = Colours()
    assert torch.equal(encode_in_parts(again, images.train, 2, tmp_path), expected)
    assert again.looked_at == 15 - 6
    part.write_bytes(part.read_bytes()[:-1])
    again = Colours()
    assert torch.equal(encode_in_parts(again, images.train, 2, tmp_path), expected)
    assert again.looked_at == 6


def test_a_finished_run_is_told_again_without_looking(images: LabelledImages, tmp_path: Path) -> None:
    first = evaluate_linear(Colours(), images, SMALL, out=tmp_path / "run")
    again = Colours()
    assert evaluate_linear(again, images, SMALL, out=tmp_path / "run") == first
    assert again.looked_at == 0
    assert not (tmp_path / "run/features").exists()
    assert json.loads((tmp_path / "run/config.json").read_text())["recipe"]["epochs"] == 25


def test_other_weights_or_images_or_recipes_are_refused(images: LabelledImages, folder: Path, tmp_path: Path) -> None:
    evaluate_linear(Colours(), images, SMALL, out=tmp_path / "run")
    with pytest.raises(CheckpointError, match="the evaluated weights have changed since, or others are given"):
        evaluate_linear(Colours(digest="sha256:1"), images, SMALL, out=tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"recipe\.augment: .*; recipe\.optimizer: "):
        evaluate_linear(Colours(), images, FRESH, out=tmp_path / "run")
    fewer = LabelledImages(folder=folder, train=images.train.part(0, 14), test=images.test)
    with pytest.raises(CheckpointError, match=r"images\.train: the run has 'sha256:"):
        evaluate_linear(Colours(), fewer, SMALL, out=tmp_path / "run")


@pytest.mark.parametrize(("pool", "model_is_there"), [("cls", True), ("mean", True), ("cls+mean", False)])
def test_a_students_probe_loads_into_timm_as_its_head(
    images: LabelledImages, tmp_path: Path, pool: Pool, model_is_there: bool
) -> None:
    student = Student("test_vit", img_size=32, seed=1)
    torch.nn.init.normal_(student.model.norm.weight)  # a final norm that the pooling rule leaves out
    result = evaluate_linear(StudentEncoder(student, pool=pool), images, SMALL, out=tmp_path)
    assert (tmp_path / "model.safetensors").exists() == model_is_there
    views = np.concatenate(list(images.test.batches(32, 9)))
    probe = load_file(tmp_path / "probe.safetensors")
    scores = functional.linear(StudentEncoder(student, pool=pool)(views), probe["weight"], probe["bias"])
    labels = torch.from_numpy(images.test.labels)
    assert (scores.argmax(1) == labels).float().mean().item() == pytest.approx(result.accuracy)
    if model_is_there:
        assert result.files is not None
        model = timm.create_model(**result.files["timm"])
        model.load_state_dict(load_file(tmp_path / "model.safetensors"))
        pixels = (torch.from_numpy(views).float() / 255 - torch.tensor(IMAGENET.mean)) / torch.tensor(IMAGENET.std)
        with torch.inference_mode():
            torch.testing.assert_close(model.eval()(pixels.permute(0, 3, 1, 2)), scores, atol=2e-3, rtol=2e-3)
        with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
            metadata = file.metadata()
        assert json.loads(metadata["classes"]) == ["a", "b", "c"]
        assert json.loads(metadata["timm"]) == result.files["timm"]


def test_a_bad_image_is_named(images: LabelledImages, folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "images"
    for path in folder.rglob("*.png"):
        target = bad / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"no image" if path.match("train/b/2.png") else path.read_bytes())
    for config in (SMALL, FRESH):
        with pytest.raises(UnreadableImageError, match=r"train/b/2\.png"):
            evaluate_linear(Colours(), open_labelled_images(bad), config)


def test_features_that_are_not_finite_name_the_image(images: LabelledImages) -> None:
    class Broken(Colours):
        def __call__(self, views: NDArray[np.uint8]) -> Tensor:
            features = super().__call__(views)
            return features if self.looked_at <= 9 else features * torch.nan

    for config in (SMALL, FRESH):
        with pytest.raises(NumericalError, match=r"train: the features of \d+ of \d+ images .* first of [abc]/\d\.png"):
            evaluate_linear(Broken(), images, config)


def test_too_little_to_learn_from_is_said(images: LabelledImages, folder: Path) -> None:
    one = LabelledImages(folder=folder, train=images.train.part(0, 1), test=images.test)
    with pytest.raises(UsageError, match="at least 2 training images of at least 2 classes, found 1 of 3"):
        evaluate_linear(Colours(), one, SMALL)


def test_steps_that_would_leave_one_image_alone_are_refused(images: LabelledImages, tmp_path: Path) -> None:
    """Batch norm has no spread of one image; 15 in twos are seven pairs and one alone, in threes none is."""
    with pytest.raises(UsageError, match="--probe-batch-size 2: batch norm needs at least 2 images per step"):
        evaluate_linear(Colours(), images, LinearProbeConfig(epochs=1, probe_batch_size=2), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert evaluate_linear(Colours(), images, LinearProbeConfig(epochs=1, probe_batch_size=3)).steps == 5
