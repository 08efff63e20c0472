"""Cached targets in other people's trainers: the batches of train-student, in parts, resumed; the examples."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from lookonce.shared.errors import CacheMismatchError, CheckpointError, UsageError
from lookonce.testing import check_batches_resume
from lookonce.train.batch_config import BatchConfig
from lookonce.train.cached_targets import CachedTargets, TargetBatch
from lookonce.train.config import TrainingConfig
from lookonce.train.model.alignment import AlignmentConfig, DynamicAlignment
from lookonce.train.setup import set_up

EXAMPLES = Path(__file__).parents[2] / "examples"
TOP2 = AlignmentConfig(layer_weights="top2")


def open_batches(cache: Path, **changes: Any) -> CachedTargets:
    process = {name: changes.pop(name) for name in ("alignment", "rank", "world_size") if name in changes}
    config = BatchConfig(**{"shards": (cache,), "batch_size": 4, "epochs": 4, **changes})
    return CachedTargets(config, **{"alignment": TOP2, **process})


def assert_equal(one: TargetBatch, other: TargetBatch) -> None:
    assert (one["step"], one["epoch"], one["share"]) == (other["step"], other["epoch"], other["share"])
    for name in ("visible_pixels", "visible_ids"):
        assert torch.equal(one[name], other[name])  # type: ignore[literal-required]
    assert len(one["targets"]) == len(other["targets"])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one["targets"], other["targets"], strict=True))


@pytest.mark.parametrize(
    ("precision", "norm", "layer_weights"),
    [
        ("int8", "whiten", "top2"),
        ("int8", "bn", "top2"),
        *(("klt1", norm, "top1") for norm in ("whiten", "none", "l2", "bn")),
    ],
)
def test_batches_are_those_of_train_student(
    training_cache: Callable[..., Path], tmp_path: Path, precision: str, norm: Any, layer_weights: str
) -> None:
    cache = training_cache(precision=precision)
    config = TrainingConfig(
        shards=(cache,),
        out=tmp_path / "run",
        student="test_vit",
        layer_weights=layer_weights,
        target_norm=norm,
        epochs=4,
        batch_size=4,
        seed=3,
        device="cpu",
        drop_path=0.0,
    )
    setup = set_up(config)
    batches = CachedTargets(config)
    assert batches.teacher_blocks == (setup.model.alignments[0].teacher_blocks,)
    assert len(batches) == setup.input.order.total_steps == 11
    seen = list(batches)
    assert [(batch["step"], batch["epoch"]) for batch in seen] == [(n, n * 4 // 11) for n in range(11)]
    for step, batch in enumerate(seen):
        expected = setup.input.batches.batch(setup.input.order.step(step))
        assert torch.equal(batch["visible_pixels"], expected.visible_pixels)
        assert torch.equal(batch["visible_ids"], expected.visible_ids)
        assert torch.equal(batch["targets"][0], setup.model.teachers[0].targets(expected.targets[0]))  # type: ignore[operator]
    assert list(batches) == []  # the run is over


@pytest.mark.parametrize("precision", ["int8", "klt1"])
def test_a_state_saved_behind_any_batch_goes_on_with_the_next(
    training_cache: Callable[..., Path], precision: str
) -> None:
    cache = training_cache(precision=precision)
    assert check_batches_resume(lambda: open_batches(cache)) == 11


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_each_batch_and_may_change_in_number(
    training_cache: Callable[..., Path], world_size: int
) -> None:
    cache = training_cache()
    whole = open_batches(cache)
    expected = list(whole)
    ranks = [open_batches(cache, rank=rank, world_size=world_size) for rank in range(world_size)]
    for rank in ranks[1:]:
        rank.load_state_dict(ranks[0].state_dict())
    for batch, *parts in zip(expected, *ranks, strict=True):
        counted = [part for part in parts if part["share"]]
        assert sum(part["share"] for part in parts) == pytest.approx(1)
        assert torch.equal(torch.cat([part["visible_ids"] for part in counted]), batch["visible_ids"])
        assert torch.equal(torch.cat([part["targets"][0] for part in counted]), batch["targets"][0])
    assert [pair for rank in ranks for pair in rank.keys(1)] == whole.keys(1)
    whole.load_state_dict(ranks[0].state_dict() | {"step": 7})
    assert_equal(next(iter(whole)), expected[7])


def test_a_state_of_other_batches_is_refused_with_both_sides(training_cache: Callable[..., Path]) -> None:
    cache = training_cache()
    state = open_batches(cache).state_dict()
    with pytest.raises(CheckpointError, match="batch_size: the state has 4, now 8; seed: the state has 0, now 1"):
        open_batches(cache, batch_size=8, seed=1).load_state_dict(state)
    with pytest.raises(CheckpointError, match="version 99, this lookonce reads version 1"):
        open_batches(cache).load_state_dict({**state, "version": 99})


def test_what_does_not_fit_is_refused_at_once(training_cache: Callable[..., Path]) -> None:
    cache = training_cache()
    with pytest.raises(CacheMismatchError, match="blocks 1, 2 are not in this cache"):
        open_batches(cache, alignment=AlignmentConfig(layer_weights="mean"))
    with pytest.raises(UsageError, match="rank must be 0 to 1, found 2"):
        open_batches(cache, rank=2, world_size=2)
    with pytest.raises(UsageError, match="--batch-size 0: must be at least 1"):
        open_batches(cache, batch_size=0)
    with pytest.raises(UsageError, match="give at least one cache"):
        BatchConfig(shards=())
    loader = DataLoader(open_batches(cache), batch_size=None, num_workers=1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="found a DataLoader with 1 worker"):  # right batches, but a state of step 0
        next(iter(loader))
    batches = open_batches(cache)
    alignment = DynamicAlignment(
        AlignmentConfig(layer_weights="out"), student_blocks=6, student_dim=64, teacher_levels=4, teacher_dim=6
    )
    features = [torch.zeros(4, 5, 64)] * 6
    with pytest.raises(UsageError, match="targets: expected shape"):
        alignment(features, next(iter(batches))["targets"][0])


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUN: dict[str, Any] = {"student_name": "test_vit", "layer_weights": "top2", "batch_size": 4, "epochs": 6}


def plain(cache: Path, state_file: Path, **changes: Any) -> list[float]:
    losses: list[float] = example("own_trainer_pytorch").train(cache, state_file=state_file, **{**RUN, **changes})
    return losses


def test_plain_pytorch_learns_and_resumes_exactly(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache = training_cache()
    whole = plain(cache, tmp_path / "whole.pt")
    assert len(whole) == 17
    assert whole[-1] < whole[0]
    assert [*plain(cache, tmp_path / "cut.pt", stop_after=6), *plain(cache, tmp_path / "cut.pt")] == whole
    saved = [torch.load(tmp_path / name, weights_only=True)["student"] for name in ("whole.pt", "cut.pt")]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


@pytest.mark.filterwarnings("default")  # of Lightning and what it imports
def test_lightning_gives_the_losses_of_plain_pytorch(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="Lightning is not installed: pip install lightning")
    cache = training_cache()
    module = example("own_trainer_lightning").train(
        cache, **RUN, accelerator="cpu", devices=1, default_root_dir=tmp_path, enable_progress_bar=False
    )
    assert module.losses == pytest.approx(plain(cache, tmp_path / "plain.pt"), rel=1e-5)


@pytest.mark.filterwarnings("default")
def test_accelerate_gives_the_losses_of_plain_pytorch(training_cache: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="Accelerate is not installed: pip install accelerate")
    cache = training_cache()
    losses = example("own_trainer_accelerate").train(cache, **RUN, cpu=True)
    assert losses == pytest.approx(plain(cache, tmp_path / "plain.pt"), rel=1e-5)
