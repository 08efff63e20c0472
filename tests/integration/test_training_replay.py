"""Training from a cache without stored pixels: views are cut again from the images, the same to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookonce.shared.errors import CacheMismatchError, SourceError
from lookonce.shared.patches import patchify
from lookonce.shared.views import ViewRecipe, apply_view, draw_view, pixel_digest
from lookonce.train.config import TrainingConfig
from lookonce.train.records.metrics import read_metrics
from lookonce.train.run import train_student

SAMPLES = 11


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Small photographs under the keys that synthetic caches have."""
    generator = np.random.default_rng(7)
    for row in range(SAMPLES):
        path = tmp_path / "photos" / f"c{row % 2}" / f"näme-{row:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (70 + row, 90, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def real_views(photos: Path) -> Callable[[Any, int], dict[str, Any]]:
    """Pixels, digests and parameters of the photographs' views, as extraction would store them."""

    def make(manifest: Any, seed: int) -> dict[str, Any]:
        views, pixels = [], []
        for row in range(SAMPLES):
            key = f"c{row % 2}/näme-{row:03d}.jpg"
            with Image.open(photos / key) as image:
                view = draw_view(
                    ViewRecipe(size=64), key=key, seed=seed, source_height=image.height, source_width=image.width
                )
                pixels.append(patchify(apply_view(image, view, 64), 16))
            views.append(view.to_row())
        arrays = {"view": np.stack(views), "pixel_digest": np.stack([pixel_digest(patches) for patches in pixels])}
        return arrays | ({"pixels": np.stack(pixels)} if manifest.stores_pixels else {})

    return make


def train(cache: Path, out: Path, **changes: Any) -> Path:
    recipe: dict[str, Any] = {
        "student": "test_vit",
        "layer_weights": "top2",
        "epochs": 2,
        "batch_size": 4,
        "base_lr": 0.05,
        "log_steps": 1,
    }
    train_student(TrainingConfig(shards=(cache,), out=out, **{**recipe, **changes}), show_progress=False)
    return out


def test_replayed_views_train_the_very_same_student(
    training_cache: Callable[..., Path], real_views: Any, photos: Path, tmp_path: Path
) -> None:
    stored = train(training_cache("with", make_arrays=real_views), tmp_path / "stored")
    bare = training_cache("without", make_arrays=real_views, store_pixels=False)
    assert not list(bare.rglob("pixels"))
    replayed = train(bare, tmp_path / "replayed", images=str(photos))
    losses = [[line["loss"] for line in read_metrics(run / "metrics.jsonl")] for run in (stored, replayed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
    assert (stored / "student.safetensors").read_bytes() == (replayed / "student.safetensors").read_bytes()


def test_images_must_be_given(training_cache: Callable[..., Path], real_views: Any, tmp_path: Path) -> None:
    bare = training_cache(make_arrays=real_views, store_pixels=False)
    with pytest.raises(CacheMismatchError, match=r"made with --pixels none.*--images SOURCE"):
        train(bare, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_changed_image_is_named_before_the_first_step(
    training_cache: Callable[..., Path], real_views: Any, photos: Path, tmp_path: Path
) -> None:
    bare = training_cache(make_arrays=real_views, store_pixels=False)
    victim = photos / "c1" / "näme-003.jpg"
    Image.fromarray(np.zeros((73, 90, 3), dtype=np.uint8)).save(victim)
    with pytest.raises(CacheMismatchError, match=r"c1/näme-003.jpg.*has other pixels than the teacher saw"):
        train(bare, tmp_path / "run", images=str(photos))
    assert not (tmp_path / "run").exists()


def test_an_image_changed_in_mid_run_is_named_and_the_steps_done_are_kept(
    training_cache: Callable[..., Path], real_views: Any, photos: Path, tmp_path: Path
) -> None:
    bare = training_cache(make_arrays=real_views, store_pixels=False)
    run = train(bare, tmp_path / "run", images=str(photos), max_steps=1)
    before = (run / "checkpoints" / "step-000000001.pt").read_bytes()
    Image.fromarray(np.zeros((80, 90, 3), dtype=np.uint8)).save(photos / "c0" / "näme-010.jpg")
    with pytest.raises(CacheMismatchError, match=r"c0/näme-010.jpg"):
        train(bare, run, images=str(photos))
    assert (run / "checkpoints" / "step-000000001.pt").read_bytes() == before


def test_missing_images_are_counted_and_holes_are_not_missed(
    training_cache: Callable[..., Path], real_views: Any, photos: Path, tmp_path: Path
) -> None:
    whole = training_cache("whole", make_arrays=real_views, store_pixels=False)
    holed = training_cache("holed", make_arrays=real_views, store_pixels=False, holes=(3,))
    (photos / "c1" / "näme-003.jpg").unlink()
    with pytest.raises(SourceError, match=r"1 of the cache's 11 images are missing there.*näme-003"):
        train(whole, tmp_path / "run", images=str(photos))
    run = train(holed, tmp_path / "holed-run", images=str(photos))
    assert (run / "student.safetensors").is_file()
