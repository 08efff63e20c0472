"""When a cache pays: cases by hand, "do not cache" among them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lookonce.clusters.extraction.resources import WorkerResources
from lookonce.reports.plan.break_even import BreakEven
from lookonce.reports.plan.probe import Probe


def case(**changes: Any) -> BreakEven:
    """1,000 images, 4 seeds; the teacher takes 0.1 s a view online, 0.11 s with decoding and writing."""
    facts: dict[str, Any] = {
        "images": 1000,
        "epochs": 200,
        "experiments": 1,
        "views_left": 4000,
        "extraction_seconds": 440.0,
        "online_seconds": 100.0,
        "bytes_left": 10,
        "bytes_free": 11,
    }
    return BreakEven(**{**facts, **changes})


def test_a_cache_of_few_seeds_pays_within_one_experiment() -> None:
    plan = case()
    assert plan.break_even_epochs == 5  # 4 epochs online take 400 s, 5 take 500
    assert plan.break_even_experiments == 1
    assert plan.forward_ratio == 50
    assert plan.saved_seconds == 200 * 100 - 440
    assert plan.reasons_against == []


def test_exactly_even_has_not_paid_yet() -> None:
    plan = case(extraction_seconds=400.0, epochs=4)
    assert (plan.break_even_epochs, plan.break_even_experiments) == (5, 2)
    assert plan.saved_seconds == 0


def test_as_many_seeds_as_epochs_and_one_experiment_save_nothing() -> None:
    """Even where the measurement says that the cache is faster."""
    (reason,) = case(epochs=4, extraction_seconds=1.0).reasons_against
    assert "4,000 times for the cache and 4,000 times online" in reason


def test_a_second_experiment_makes_it_pay() -> None:
    plan = case(epochs=4, experiments=2)
    assert plan.break_even_experiments == 2
    assert plan.reasons_against == []


def test_a_cheap_teacher_beside_dear_writing_does_not_pay() -> None:
    (reason,) = case(epochs=5, extraction_seconds=600.0).reasons_against
    assert "takes longer" in reason


def test_a_full_disk_is_a_reason() -> None:
    (reason,) = case(bytes_left=2_000_000, bytes_free=1_000_000).reasons_against
    assert "2 MB are to be written and the disk has 1 MB free" in reason
    assert case(bytes_left=7, bytes_free=7).reasons_against == []


def test_a_cache_that_is_there_has_paid() -> None:
    plan = case(views_left=0, extraction_seconds=0.0, bytes_left=0, bytes_free=0)
    assert (plan.break_even_epochs, plan.break_even_experiments, plan.forward_ratio) == (1, 1, math.inf)
    assert plan.reasons_against == []


def probed(**changes: Any) -> Probe:
    facts: dict[str, Any] = {
        "images": 9,
        "unreadable": 0,
        "forwards": 3,
        "batch": 32,
        "threads": 4,
        "view_seconds": 0.02,
        "teacher_seconds": 0.1,
        "core_wait": 0.0,
        "encode_seconds": 0.01,
        "write_seconds": 0.02,
    }
    return Probe(**{**facts, **changes})


def test_on_cpus_everything_shares_the_cores() -> None:
    two = WorkerResources(2, 4, 0.0)
    assert probed().extraction_seconds(two) == pytest.approx((0.11 * 4 + 0.04) / 8)
    assert probed().online_seconds(two, with_views=True) == pytest.approx((0.1 * 4 + 0.02) / 8)
    assert probed().online_seconds(two, with_views=False) == pytest.approx(0.1 / 2)


def test_one_thread_of_many_cores_waits_for_the_forward() -> None:
    assert probed(threads=1).extraction_seconds(WorkerResources(1, 16, 0.0)) == pytest.approx(0.11)


def test_on_gpus_the_slower_of_device_and_cores_decides() -> None:
    fast = probed(threads=0, teacher_seconds=0.001, encode_seconds=0.0)
    assert fast.extraction_seconds(WorkerResources(2, 8, 1.0)) == pytest.approx(0.04 / 16)
    slow = probed(threads=0, teacher_seconds=0.1, encode_seconds=0.0)
    assert slow.extraction_seconds(WorkerResources(2, 8, 1.0)) == pytest.approx(0.05)
