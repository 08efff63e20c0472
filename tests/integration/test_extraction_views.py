"""Which images and which crops a cache is made of: crop options, limits over classes, and older caches that go on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.replayed_views import ReplayedViews
from lookonce.cache.show.description import describe_cache
from lookonce.clusters.extraction.run import extract_features
from lookonce.extract.config import ExtractionConfig
from lookonce.extract.summary import ExtractionSummary
from lookonce.shared.errors import CacheMismatchError, RecipeMismatchError
from lookonce.shared.sources import ImageFolder, Listing
from lookonce.shared.views import ViewRecipe

Extract = Callable[..., ExtractionSummary]


@pytest.fixture
def extract(tiny_weights: Path, tiny_images: Path, tmp_path: Path) -> Extract:
    """A tiny extraction in this process, of 24 images of two classes."""

    def run(out: str, **changes: Any) -> ExtractionSummary:
        arguments = {
            "teacher": "timm:vit_tiny_patch16_224",
            "teacher_weights": tiny_weights,
            "images": str(tiny_images),
            "out": tmp_path / out,
            "view_size": 32,
            "patch_size": 8,
            "shard_size": 4,
            "batch_size": 2,
            "executor": "inline",
        }
        return extract_features(ExtractionConfig(**{**arguments, **changes}), show_progress=False)

    return run


def test_crop_options_are_in_the_recipe_and_all_else_follows_it(
    extract: Extract, tiny_images: Path, tmp_path: Path
) -> None:
    usual = extract("usual", limit=4)
    same = extract("same", limit=4, crop_scale="0.2,1", crop_ratio="0.75,1.3333", flip=0.5)
    assert same.fingerprint == usual.fingerprint
    wide = {"limit": 4, "crop_scale": "0.9,1", "crop_ratio": "1,1", "flip": 0.0}
    other = extract("other", pixels="none", **wide)
    assert other.fingerprint != usual.fingerprint
    recipe = ViewRecipe(size=32, scale=(0.9, 1), ratio=(1, 1), flip_probability=0)
    reader = CacheReader(tmp_path / "other", seeds=[0])
    assert reader.manifest.recipe.view == recipe.document()
    assert not reader.column("view", 0)[:, 4].any()  # none is mirrored

    stored = extract("stored", **wide)
    assert stored.fingerprint == other.fingerprint
    replayed = ReplayedViews(reader, str(tiny_images))
    pixels = CacheReader(tmp_path / "stored", seeds=[0]).read("pixels", [0] * 4, range(4))
    for row in range(4):
        np.testing.assert_array_equal(replayed.patches(0, row), pixels[row])

    lines = describe_cache(tmp_path / "other").text()
    assert "crops        90 to 100 % of the area, 1 to 1 as wide as high, 0 % mirrored" in lines
    with pytest.raises(RecipeMismatchError, match=r"view\.scale: cache has \[0\.9, 1\.0\], this run has \[0\.2"):
        extract("other", limit=4, pixels="none")
    with pytest.raises(CacheMismatchError, match=r"it has other views \(view\.flip_probability: cache has 0\.0"):
        extract("more", reuse=tmp_path / "other", limit=4)
    assert extract("copied", reuse=tmp_path / "stored", **wide).views_copied == 4


def labels_at(root: Path) -> list[int]:
    return CacheReader(root, seeds=[0]).column("label", 0).tolist()


def test_a_limit_takes_of_every_class_and_says_what_has_labels(
    extract: Extract, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extract("cache", limit=6)
    assert labels_at(tmp_path / "cache") == [0, 0, 0, 1, 1, 1]
    assert "labels: 6 of 6 images, 2 classes\n" in capsys.readouterr().err


def test_a_cache_of_the_first_images_goes_on_with_them(
    extract: Extract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as as_it_was:
        as_it_was.setattr(Listing, "spread", Listing.head)
        old = extract("cache", limit=6)
    assert labels_at(tmp_path / "cache") == [0] * 6
    capsys.readouterr()
    again = extract("cache", limit=6, seeds="0-1")
    assert (again.fingerprint, again.shards_written) == (old.fingerprint, 2)
    assert "cache contains the first 6 images by name, as --limit took them before" in capsys.readouterr().err


def test_a_cache_without_labels_goes_on_without(
    extract: Extract,
    tiny_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As one whose folder held a stray image had none."""
    images = shutil.copytree(tiny_images, tmp_path / "images")
    shutil.copyfile(images / "class0/000.png", images / "stray.png")
    listing = ImageFolder.listing
    with monkeypatch.context() as as_it_was:
        as_it_was.setattr(ImageFolder, "listing", lambda self, **options: listing(self, **options).without_labels())
        old = extract("cache", images=str(images))
    assert CacheLayout(tmp_path / "cache").load_manifest().classes == ()
    capsys.readouterr()
    again = extract("cache", images=str(images), seeds="0-1")
    assert (again.fingerprint, again.views_written) == (old.fingerprint, 25)
    said = capsys.readouterr().err
    assert f"{images}: without a label, because it lies beside the class folders: stray.png\n" in said
    assert "cache was made without labels; this run continues without them" in said
    assert "labels: 0 of 25 images, 0 classes" in said
    assert set(CacheReader(tmp_path / "cache", seeds=[1]).column("label", 1).tolist()) == {-1}
