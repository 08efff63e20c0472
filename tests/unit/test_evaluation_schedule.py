from __future__ import annotations

import numpy as np
import pytest

from lookonce.shared.errors import UsageError
from lookonce.train.evaluation.fit_schedule import FitSchedule


def schedule(**changes: float) -> FitSchedule:
    return FitSchedule(**{"images": 10, "batch_size": 4, "epochs": 3, "warmup_epochs": 1, "base_lr": 0.64, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("images", "batch_size"), [(10, 4), (9, 4), (8, 4), (3, 16384), (7, 1)])
def test_every_image_once_an_epoch_in_even_batches(images: int, batch_size: int) -> None:
    plan = schedule(images=images, batch_size=batch_size)
    for epoch in range(plan.epochs):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        batches = [plan.rows(step) for step in steps]
        assert {plan.epoch(step) for step in steps} == {epoch}
        assert sorted(np.concatenate(batches).tolist()) == list(range(images))
        sizes = {len(batch) for batch in batches}
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1
    assert plan.total_steps == 3 * len(batches)


def test_the_order_is_pinned_and_follows_seed_and_epoch() -> None:
    """Version 1 of the order: a change needs a version bump and a note in the changelog."""
    assert [schedule().rows(step).tolist() for step in range(3)] == [[0, 5, 4, 2], [1, 8, 3], [9, 7, 6]]
    first = schedule().rows(0).tolist()
    assert schedule().rows(3).tolist() != first
    assert schedule(seed=1).rows(0).tolist() != first


def test_rates_warm_up_over_an_epoch_then_fall_by_half_a_cosine() -> None:
    plan = schedule()
    assert plan.steps.peak == pytest.approx(0.64 * 4 / 256)
    rates = [plan.steps.learning_rate(step) / plan.steps.peak for step in range(plan.total_steps)]
    expected = [0, 1 / 3, 2 / 3, *(0.5 + 0.5 * np.cos(np.pi * np.arange(6) / 6))]
    np.testing.assert_allclose(rates, expected, atol=1e-12)


def test_the_peak_counts_the_images_there_are() -> None:
    assert schedule(images=64, batch_size=16384).steps.peak == pytest.approx(0.64 / 4)


def test_a_warm_up_as_long_as_the_schedule_is_refused() -> None:
    with pytest.raises(UsageError, match="warm-up must be"):
        schedule(warmup_epochs=3).steps.learning_rate(0)
