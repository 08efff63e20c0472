"""What fidelity measures, against values computed by hand; how images are split; that memory stays bounded."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lookonce.reports.fidelity.error_meter import ErrorMeter, channel_statistics
from lookonce.reports.fidelity.measure import measure_fidelity
from lookonce.reports.fidelity.plot import draw_fidelity
from lookonce.reports.fidelity.reference import ENOUGH_IMAGES, Reference, split_images
from lookonce.reports.fidelity.report import PrecisionFidelity
from lookonce.reports.fidelity.student_sensitivity import TargetSensitivity
from lookonce.storage_schemas.precision import PRECISIONS
from lookonce.storage_schemas.precision.lloyd_max import Int4


def one_view(*tokens: list[float]) -> np.ndarray:
    """One view of one layer: (1, tokens, 1, channels)."""
    return np.array(tokens, dtype=np.float32)[None, :, None]


def test_errors_of_two_tokens_by_hand() -> None:
    meter = ErrorMeter(np.array([[False, False, True]]))
    meter.add(one_view([3, 4, 0], [0, 0, 10]), one_view([3, 5, 0], [0, 0, 8]))
    measured = meter.errors()
    assert measured["relative_error"] == pytest.approx(np.sqrt((1 + 4) / (25 + 100)))
    assert measured["relative_error_bulk"] == pytest.approx(1 / 5)
    assert measured["relative_error_outliers"] == pytest.approx(2 / 10)
    assert measured["relative_error_of_layers"] == [pytest.approx(1 / 5)]
    cosine = 29 / (5 * np.sqrt(34))
    assert measured["cosine_mean"] == pytest.approx((cosine + 1) / 2)
    assert measured["cosine_lowest"] == pytest.approx(cosine + 0.01 * (1 - cosine))


def test_batches_add_up_and_layers_stay_apart() -> None:
    generator = np.random.default_rng(0)
    exact = generator.normal(size=(6, 3, 2, 8)).astype(np.float32)
    restored = exact.copy()
    restored[:, :, 1] *= 1.1
    whole, parts = (ErrorMeter(np.zeros((2, 8), bool)) for _ in range(2))
    whole.add(exact, restored)
    for start, stop in ((0, 1), (1, 6)):
        parts.add(exact[start:stop], restored[start:stop])
    assert parts.errors() == whole.errors()
    assert whole.errors()["relative_error_of_layers"] == [0.0, pytest.approx(0.1, rel=1e-5)]
    assert whole.errors()["relative_error_outliers"] is None
    assert whole.errors()["cosine_mean"] == pytest.approx(1)


def test_outliers_stand_out_of_their_own_layer() -> None:
    values = np.tile(np.array([[1, -1, 1, 4.1, 3.9], [20, 20, -20, 20, 20]], np.float32), (10, 1, 1))
    values[::2, 0, 3] *= -1  # its mean is 0, its magnitude is not
    statistics = channel_statistics(values)
    (found,) = statistics.outlier_channels((7, 9))
    assert (found.block, found.channel) == (7, 3)
    assert found.root_mean_square == pytest.approx(4.1)
    assert found.mean == pytest.approx(0, abs=1e-6)
    assert found.largest == pytest.approx(4.1)
    assert statistics.largest_ratio == pytest.approx(4.1)


class TestSensitivity:
    exact = np.random.default_rng(1).normal(size=(8, 20, 2, 64)).astype(np.float32)

    def changes(self, restored: np.ndarray, student_error: float) -> dict[str, float]:
        student = TargetSensitivity(np.ones((2, 64)), student_error=student_error)
        for part in (slice(0, 3), slice(3, 8)):
            student.start_batch(self.exact[part])
            student.add("x", restored[part])
        return student.changes("x")

    def test_near_the_target_the_gradient_changes_by_the_ratio_of_errors(self) -> None:
        measured = self.changes(self.exact + np.float32(0.01), student_error=0.1)
        assert measured["gradient_change"] == pytest.approx(0.01 / 0.1, rel=0.02)
        assert measured["loss_change"] == pytest.approx((0.01 / 0.1) ** 2, abs=0.005)

    def test_far_from_the_target_the_gradient_is_a_sign(self) -> None:
        assert self.changes(self.exact + np.float32(0.01), student_error=1e4)["gradient_change"] < 0.02

    def test_exact_values_change_nothing(self) -> None:
        assert self.changes(self.exact, student_error=0.5) == {"loss_change": 0.0, "gradient_change": 0.0}

    def test_loss_of_the_stand_in(self) -> None:
        student = TargetSensitivity(np.full((2, 64), 2.0), student_error=0.1)
        student.start_batch(self.exact)
        assert student.student_loss == pytest.approx(0.2**2 / 2, rel=0.05)


@pytest.mark.parametrize(("count", "wanted"), [(16, 4), (64, 256), (1000, 128)])
def test_images_to_judge_by_and_to_calibrate_on_are_others(count: int, wanted: int) -> None:
    judged, others = split_images(count, wanted)
    assert len(judged) == min(wanted, count // 2)
    assert sorted([*judged, *others]) == list(range(count))


def test_a_few_images_serve_for_both() -> None:
    judged, others = split_images(ENOUGH_IMAGES - 1, 2)
    assert judged.tolist() == others.tolist() == list(range(ENOUGH_IMAGES - 1))


def synthetic_reference(recipe: Any, batches: int, bits: int = 32) -> Reference:
    shape = (4, recipe.patches + 1, len(recipe.teacher.blocks), recipe.teacher.width)

    def stream() -> Iterator[np.ndarray]:
        for number in range(batches):
            yield np.random.default_rng(number).standard_normal(shape, dtype=np.float32)

    calibration = np.random.default_rng(99).standard_normal((64, *shape[2:]), dtype=np.float32)
    views = np.random.default_rng(98).standard_normal(shape, dtype=np.float32)
    return Reference(
        facts={},
        bits=bits,
        recipe=recipe,
        store_pixels=True,
        moments="float32",
        jpeg_bytes=0.0,
        calibrate=lambda: calibration,
        calibration_views=lambda: iter([views]),
        batches=stream,
    )


def test_memory_does_not_grow_with_the_views(make_manifest) -> None:
    recipe = make_manifest(width=256, layers=3).recipe
    peaks = []
    measure_fidelity(synthetic_reference(recipe, 1), student_error=0.5)  # what is imported and kept once
    for batches in (2, 40):
        tracemalloc.start()
        assert measure_fidelity(synthetic_reference(recipe, batches), student_error=0.5).views == 4 * batches
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


class Int4Again(Int4):
    name = "int4-again"


def test_a_new_precision_appears_by_itself(make_manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRECISIONS, "int4-again", Int4Again())  # type: ignore[misc]
    measured = measure_fidelity(synthetic_reference(make_manifest().recipe, 2), student_error=0.5).precisions
    assert list(measured) == list(PRECISIONS)
    assert measured["int4-again"] == measured["int4"]


def test_as_many_bits_as_the_reference_are_left_out_with_a_reason(make_manifest) -> None:
    result = measure_fidelity(synthetic_reference(make_manifest().recipe, 1, bits=8), student_error=0.5)
    assert list(result.precisions) == ["int4", "int2", *(name for name in PRECISIONS if name.startswith("klt"))]
    assert result.left_out["fp8-e4m3"] == "8 bits cannot be judged from a reference of 8"
    assert list(result.left_out) == ["fp16", "bf16", "fp8-e4m3", "int8"]


def test_bytes_a_view_are_those_of_the_arrays(make_manifest) -> None:
    manifest = make_manifest(precision="int4")
    measured = measure_fidelity(synthetic_reference(manifest.recipe, 1), student_error=0.5).precisions["int4"]
    assert measured.target_bytes == manifest.array("targets").sample_bytes == 17 * 2 * 3
    assert measured.all_bytes == sum(spec.sample_bytes for spec in manifest.arrays)


def test_all_klt_rates_share_one_pass_over_the_calibration_views(make_manifest) -> None:
    reference = synthetic_reference(make_manifest().recipe, 1)
    passes = []
    views = next(reference.calibration_views())
    counted = dataclasses.replace(reference, calibration_views=lambda: passes.append(1) or iter([views]))
    result = measure_fidelity(counted, student_error=0.5)
    assert len(passes) == 1
    assert {name for name in result.precisions if name.startswith("klt")} == set(list(PRECISIONS)[6:])
    (note,) = result.notes
    assert "saw 64 patch tokens of 4 views, and 360 are comfortable (30 for each value of a token)" in note
    many = dataclasses.replace(reference, calibration_views=lambda: iter([views] * 6))
    assert measure_fidelity(many, student_error=0.5).notes == ()


def test_a_plot_of_a_single_precision(tmp_path) -> None:
    entry = PrecisionFidelity(
        target_bytes=500,
        all_bytes=600,
        relative_error=0.3,
        relative_error_bulk=0.3,
        relative_error_outliers=None,
        relative_error_of_layers=[0.3],
        cosine_mean=0.9,
        cosine_lowest=0.8,
        loss_change=0.1,
        gradient_change=0.7,
    )
    draw_fidelity({"int2": entry}, "a $title$", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
