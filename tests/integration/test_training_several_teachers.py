"""Several teachers over the same views: joined by (key, seed), each its own alignment, refused when views differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lookonce.shared.errors import CacheMismatchError
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.tokens import VisibleTokens
from lookonce.train.config import TrainingConfig
from lookonce.train.data.batch import Batch
from lookonce.train.model.alignment_step import AlignmentStep, StepOutput
from lookonce.train.run import train_student
from lookonce.train.setup import TrainingSetup, set_up

RECIPE: dict[str, Any] = {
    "student": "test_vit",
    "layer_weights": "top2",
    "epochs": 4,
    "batch_size": 4,
    "base_lr": 0.01,
    "log_steps": 1,
    "device": "cpu",
    "drop_path": 0.0,
    "warmup_epochs": 0.0,
}

MakeCache = Callable[..., Path]


@pytest.fixture
def views_cache(training_cache: MakeCache) -> MakeCache:
    """A cache of given images: what is seen of an image under a seed is the same in each, what teachers say is not."""

    def build(name: str, images: range, *, pixels: int = 0, **changes: Any) -> Path:
        def views(manifest: Manifest, seed: int) -> dict[str, Any]:
            made: dict[str, list[Any]] = {"pixels": [], "pixel_digest": [], "importance": []}
            for image in images:
                generator = np.random.default_rng([seed, image, pixels if image == 7 else 0])
                patches, size = manifest.recipe.patches, manifest.recipe.patch_size
                made["pixels"].append(generator.integers(0, 256, (patches, size * size * 3), dtype=np.uint8))
                made["pixel_digest"].append(generator.integers(0, 256, 16, dtype=np.uint8))
                made["importance"].append(np.random.default_rng([len(name), image]).random(patches, dtype=np.float32))
            if not manifest.recipe.tokens.keeps_all:
                shape = (len(images), manifest.recipe.patches)
                drawn = np.random.default_rng([len(name), seed]).random(shape).argsort(axis=1)
                made["patch_ids"] = list(np.sort(drawn[:, : manifest.recipe.stored_patches], axis=1).astype(np.uint16))
                made["pixels"] = [view[ids] for view, ids in zip(made["pixels"], made["patch_ids"], strict=True)]
            return {array: np.stack(values) for array, values in made.items()}

        return training_cache(name, images=list(images), samples=len(images), make_arrays=views, **changes)

    return build


@pytest.fixture
def two(views_cache: MakeCache) -> tuple[Path, Path]:
    """Images 0 to 10 of a teacher of width 6, and images 13 to 2 of one of width 10 with more blocks stored."""
    return views_cache("a", range(11)), views_cache("bb", range(13, 1, -1), listing="2", width=10, layers=3)


def config(out: Path, *shards: Path, **changes: Any) -> TrainingConfig:
    return TrainingConfig(shards=shards, out=out, **{**RECIPE, **changes})


def same_batch(setup: TrainingSetup) -> Batch:
    return setup.input.batches.batch(setup.input.order.step(1))


def test_samples_are_joined_by_key_and_seed_in_the_order_of_the_first(two: tuple[Path, Path], tmp_path: Path) -> None:
    setup = set_up(config(tmp_path / "run", *two))
    assert setup.input.caches.rows.tolist() == list(range(2, 11))
    assert setup.notes == [
        f"2 samples of {two[0]} are not in every cache and are not used",
        f"3 samples of {two[1]} are not in every cache and are not used",
    ]
    other = setup.input.caches.readers[1]
    theirs = list(other.column("key", 0))
    for step in range(setup.input.order.total_steps):
        samples = setup.input.order.step(step)
        batch = setup.input.batches.batch(samples)
        assert [targets.elements.shape[2:] for targets in batch.targets] == [(2, 6), (3, 10)]
        for place, (row, seed) in enumerate(zip(samples.rows.tolist(), samples.seeds.tolist(), strict=True)):
            key = setup.input.caches.keys.everything()[row]
            assert key == f"c{row % 2}/näme-{row:03d}.jpg"
            tokens = np.array([[0, *(batch.visible_ids[place] + 1).tolist()]])
            expected = other.read("targets", [seed], [theirs.index(key)], tokens)[0]
            assert np.array_equal(batch.targets[1].elements[place].numpy(), expected)


def test_seeds_that_a_cache_has_alone_are_named_unless_seeds_were_chosen(
    views_cache: MakeCache, tmp_path: Path
) -> None:
    caches = views_cache("a", range(8), seeds=(0, 1, 2, 3)), views_cache("bb", range(8), seeds=(1, 2))
    setup = set_up(config(tmp_path / "run", *caches))
    assert setup.input.caches.seeds == (1, 2)
    assert setup.notes == [f"of {caches[0]}, seeds 0, 3 are not in every cache and not used"]
    assert set_up(config(tmp_path / "run", *caches, seeds="1-2")).notes == []


@pytest.mark.parametrize("weights", [None, (0.25, 2.0)])
def test_the_loss_is_the_weighted_sum_of_single_alignments(
    two: tuple[Path, Path], tmp_path: Path, weights: tuple[float, float] | None
) -> None:
    setup = set_up(config(tmp_path / "run", *two, teacher_loss_weights=weights, target_norm="bn"))
    batch = same_batch(setup)
    joint, gradients = backward(setup.model, batch)
    alone = []
    for number, teacher in enumerate(setup.model.teachers):
        one = Batch(
            visible_pixels=batch.visible_pixels, visible_ids=batch.visible_ids, targets=(batch.targets[number],)
        )
        alone.append(backward(AlignmentStep(setup.model.student, [teacher]), one))  # type: ignore[list-item]
    shares = weights or (0.5, 0.5)
    losses = [float(output.loss.detach()) for output, _ in alone]
    assert losses[0] != losses[1]
    assert float(joint.loss.detach()) == pytest.approx(shares[0] * losses[0] + shares[1] * losses[1], rel=1e-6)
    assert joint.level_losses.detach().tolist() == [
        loss for output, _ in alone for loss in output.level_losses.detach().tolist()
    ]
    for name, value in gradients.items():
        if name.startswith("student."):
            expected = shares[0] * alone[0][1][name] + shares[1] * alone[1][1][name]
        else:  # W and adapters are each teacher's own
            number = int(name.split(".")[1])
            expected = shares[number] * alone[number][1][name.replace(f"teachers.{number}.", "teachers.0.")]
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-7)


def backward(model: AlignmentStep, batch: Batch) -> tuple[StepOutput, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    output = model(batch)
    output.loss.backward()
    return output, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_run_has_w_and_adapters_for_each_teacher_and_resumes_exactly(two: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("whole", "stopped"):
        if name == "stopped":
            train_student(config(tmp_path / name, *two, max_steps=3), show_progress=False)
        summary = train_student(config(tmp_path / name, *two), show_progress=False)
        assert "2 samples of" in (summary.note or "")
    whole, stopped = (tmp_path / name for name in ("whole", "stopped"))
    assert (whole / "student.safetensors").read_bytes() == (stopped / "student.safetensors").read_bytes()
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert list(lines[0]["level_loss"]) == ["1/3", "1/4", "2/3", "2/4"]
    for line in lines:  # each level counts 1/2 of its teacher's loss, each teacher 1/2
        assert line["loss"] == pytest.approx(sum(line["level_loss"].values()) / 4, rel=1e-5)
    assert lines[-1]["loss"] < lines[0]["loss"]
    pictures = [(whole / name).read_bytes() for name in ("alignment.png", "alignment-2.png")]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert pictures[0] != pictures[1]


def test_one_view_with_other_pixels_is_refused_by_name(two: tuple[Path, Path], views_cache: MakeCache) -> None:
    third = views_cache("replaced", range(11), pixels=1)
    with pytest.raises(CacheMismatchError) as raised:
        set_up(config(third.parent / "run", *two, third))
    assert f"{third}: the view of 'c1/näme-007.jpg', seed 0, has other pixels than in {two[0]}" in str(raised.value)
    assert f"extract-features --reuse {two[0]}" in str(raised.value)


def test_another_view_recipe_is_refused_by_what_differs(two: tuple[Path, Path], views_cache: MakeCache) -> None:
    third = views_cache("larger", range(11), view_size=96)
    with pytest.raises(CacheMismatchError, match=r"contain different views \(view\.size: 64 and 96\)"):
        set_up(config(third.parent / "run", *two, third))


def test_no_sample_in_common_is_refused(two: tuple[Path, Path], views_cache: MakeCache) -> None:
    third = views_cache("others", range(20, 25), listing="3")
    with pytest.raises(CacheMismatchError, match="no sample is readable in every cache and seed"):
        set_up(config(third.parent / "run", two[0], third))


def test_a_cache_of_visible_tokens_leads_or_is_refused(two: tuple[Path, Path], views_cache: MakeCache) -> None:
    visible = views_cache("visible", range(11), width=8, tokens=VisibleTokens(mask="attentive", mask_ratio=0.7))
    setup = set_up(config(visible.parent / "run", visible, *two))
    batch = same_batch(setup)
    assert [targets.elements.shape[1] for targets in batch.targets] == [5, 5, 5]
    samples = setup.input.order.step(1)
    stored = setup.input.caches.first.read("patch_ids", samples.seeds, samples.rows)
    assert np.array_equal(batch.visible_ids.numpy(), stored)
    tokens = np.pad(stored.astype(np.int64) + 1, ((0, 0), (1, 0)))
    whole = setup.input.caches.readers[1].read("targets", samples.seeds, samples.rows, tokens)
    assert np.array_equal(batch.targets[1].elements.numpy(), whole)
    assert np.isfinite(float(setup.model(batch).loss.detach()))
    with pytest.raises(CacheMismatchError) as raised:
        set_up(config(visible.parent / "run", two[0], visible))
    assert str(raised.value).startswith(f"{visible}: it stores 4 of 16 patches per view")
    assert f"name {visible} first" in str(raised.value)


def test_two_caches_of_other_visible_tokens_are_refused_at_the_first_view(views_cache: MakeCache) -> None:
    tokens = VisibleTokens(mask="attentive", mask_ratio=0.7)
    one, other = (views_cache(name, range(11), tokens=tokens, width=width) for name, width in (("a", 6), ("bb", 8)))
    setup = set_up(config(one.parent / "run", one, other))
    with pytest.raises(CacheMismatchError, match="is visible to the student but not stored in this cache"):
        same_batch(setup)
