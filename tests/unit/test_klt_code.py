"""The numpy reference of the KLT precisions: records, allocation, spatial functions, calibration and its errors."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from klt_views import CHANNELS, LAYERS, PATCHES, SHAPE, calibrated, relative_error, smooth_views

from lookonce.storage_schemas.precision import get_precision
from lookonce.storage_schemas.precision.klt.allocation import allocate_bits, expected_error
from lookonce.storage_schemas.precision.klt.bit_records import BitRecord
from lookonce.storage_schemas.precision.klt.calibration import TargetStatistics
from lookonce.storage_schemas.precision.klt.quantisers import (
    MAX_BITS,
    concatenated_levels,
    gaussian_errors,
    gaussian_levels,
    table_start,
)
from lookonce.storage_schemas.precision.klt.spatial import spatial_basis
from lookonce.storage_schemas.precision.klt.view_code import ViewCode


def decoded(code: ViewCode, values: np.ndarray) -> np.ndarray:
    stored = code.encode(values)
    positions = np.broadcast_to(np.arange(values.shape[1] - 1), (len(values), values.shape[1] - 1))
    return code.decode_patches(stored["targets"], stored["coarse_targets"], positions, values.shape[1] - 1)


@given(st.lists(st.integers(0, MAX_BITS), min_size=1, max_size=60), st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_records_give_back_every_index(bits: list[int], seed: int, spare: int) -> None:
    record = BitRecord(np.array(bits, dtype=np.int64), -(-sum(bits) // 8) + spare)
    indices = np.random.default_rng(seed).integers(0, 2 ** np.array(bits), size=(3, 2, len(bits)))
    packed = record.pack(indices)
    assert packed.shape == (3, 2, record.bytes)
    np.testing.assert_array_equal(record.unpack(packed), indices)


def test_a_record_is_consecutive_bits_the_lowest_first() -> None:
    record = BitRecord(np.array([3, 0, 6, 1]), 2)
    packed = record.pack(np.array([0b101, 0, 0b110011, 1]))
    assert [f"{byte:08b}" for byte in packed] == ["10011101", "00000011"]


def test_levels_of_a_gaussian_are_those_of_max() -> None:
    np.testing.assert_allclose(gaussian_levels(1), [-0.7979, 0.7979], atol=1e-4)  # Max 1960, table I
    np.testing.assert_allclose(gaussian_levels(2), [-1.510, -0.4528, 0.4528, 1.510], atol=1e-3)
    np.testing.assert_allclose(gaussian_errors()[:5], [1, 0.3634, 0.1175, 0.03454, 0.009497], rtol=2e-3)
    assert (np.diff(gaussian_errors(), 2) > 0).all(), "greedy allocation needs a convex error"


def test_tables_lie_one_after_the_other() -> None:
    levels = concatenated_levels([gaussian_levels(bits) for bits in range(1, 5)])
    for bits in range(1, 5):
        start = int(table_start(np.array([bits]))[0])
        np.testing.assert_array_equal(levels[start : start + 2**bits], gaussian_levels(bits))


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4), st.integers(0, 12))
def test_no_allocation_is_better_than_the_greedy_one(variances: list[float], budget: int) -> None:
    sizes = np.array(variances)
    bits = allocate_bits(sizes, budget, most=8)
    assert bits.sum() <= budget
    every = (np.array(choice) for choice in itertools.product(range(9), repeat=len(variances)) if sum(choice) <= budget)
    best = min(expected_error(sizes, choice) for choice in every)
    assert expected_error(sizes, bits) <= best * (1 + 1e-9)


@pytest.mark.parametrize(("patches", "functions"), [(25, 1), (25, 4), (196, 9), (7, 1)])
def test_spatial_functions_are_orthonormal(patches: int, functions: int) -> None:
    basis = spatial_basis(patches, functions)
    np.testing.assert_allclose(basis.T @ basis, np.eye(functions), atol=1e-6)


@pytest.mark.parametrize(("patches", "functions"), [(7, 4), (25, 3), (4, 9)])
def test_spatial_functions_need_a_grid(patches: int, functions: int) -> None:
    with pytest.raises(ValueError, match=f"{functions} spatial functions on {patches} patches"):
        spatial_basis(patches, functions)


@pytest.mark.parametrize("rate", [2, 1, 0.5])
def test_the_expected_error_is_that_of_other_views(rate: float) -> None:
    statistics = TargetStatistics(SHAPE)
    for start in range(0, 400, 50):
        statistics.add(smooth_views(50, start))
    code, expected = statistics.code(rate)
    values = smooth_views(100, 10_000)
    assert relative_error(decoded(code, values), values[:, 1:]) == pytest.approx(expected.relative_error, rel=0.15)


@pytest.mark.parametrize("rate", [2, 1, 0.5])
def test_records_take_what_the_rate_says(rate: float) -> None:
    code, values = calibrated(rate), smooth_views(4, 1)
    stored = code.encode(values)
    budget = rate * LAYERS * CHANNELS * PATCHES / 8
    size = (stored["targets"].nbytes + stored["coarse_targets"].nbytes) / len(values)
    assert budget - PATCHES - 1 < size <= budget
    assert stored["class_targets"].shape == (4, LAYERS, CHANNELS)


def test_neighbouring_layers_and_patches_make_it_better_than_a_code_per_channel() -> None:
    values = smooth_views(100, 10_000)
    patches = values[:, 1:]
    mean, deviation = patches.mean((0, 1)), patches.std((0, 1))
    levels = gaussian_levels(1)
    per_channel = levels[((patches - mean) / deviation > 0).astype(int)] * deviation + mean
    assert relative_error(decoded(calibrated(1), values), patches) < 0.6 * relative_error(per_channel, patches)


def test_some_tokens_decode_as_among_all() -> None:
    code, values = calibrated(1), smooth_views(3, 1)
    whole, stored = decoded(code, values), code.encode(values)
    positions = np.array([[24, 3], [0, 7], [11, 12]])
    records = np.take_along_axis(stored["targets"], positions[..., None], axis=1)
    some = code.decode_patches(records, stored["coarse_targets"], positions, PATCHES)
    np.testing.assert_allclose(some, np.take_along_axis(whole, positions[..., None, None], axis=1), atol=1e-5)


def test_a_subset_of_patches_has_a_mean_and_no_cosines() -> None:
    statistics = TargetStatistics(dataclasses.replace(SHAPE, patches=7, all_patches=False))
    for start in range(0, 400, 50):
        statistics.add(smooth_views(50, start)[:, :8])
    code, expected = statistics.code(1)
    values = smooth_views(50, 10_000)[:, :8]
    assert expected.coarse_functions == 1
    assert relative_error(decoded(code, values), values[:, 1:]) == pytest.approx(expected.relative_error, rel=0.15)


def test_class_tokens_are_coded_apart() -> None:
    code, values = calibrated(0.5), smooth_views(50, 10_000)
    classes = code.decode_class(code.encode(values)["class_targets"])
    assert relative_error(classes, values[:, 0]) < 0.02


def test_statistics_do_not_depend_on_how_views_are_handed_over() -> None:
    values = smooth_views(96, 1)
    together, apart = TargetStatistics(SHAPE), TargetStatistics(SHAPE)
    together.add(values)
    for start in range(0, 96, 8):
        apart.add(values[start : start + 8])
    expected, found = together.code(1)[1], apart.code(1)[1]
    assert found.relative_error == pytest.approx(expected.relative_error, rel=1e-3)
    assert (found.components, found.coarse_functions) == (expected.components, expected.coarse_functions)


def test_parameters_make_the_same_code_again() -> None:
    code, values = calibrated(1), smooth_views(3, 1)
    again = ViewCode.from_parameters(code.parameters())
    for name, stored in code.encode(values).items():
        np.testing.assert_array_equal(again.encode(values)[name], stored)


def test_parameters_of_another_memory_layout_make_the_same_code() -> None:
    """Eigenvectors come in columns, arrays of a file in rows, and BLAS adds up the two in different orders."""
    code = ViewCode.from_parameters(
        {name: np.asfortranarray(values) for name, values in calibrated(1).parameters().items()}
    )
    assert all(values.flags.c_contiguous for values in code.parameters().values())


@pytest.mark.parametrize(
    ("name", "broken", "message"),
    [
        ("mean", lambda values: values[1:], r"'mean' has shape \[23\], expected \[24\]"),
        ("token_scale", lambda values: values[:, None], "'token_scale' has shape"),
        ("token_bits", lambda values: values + 9, "'token_bits' goes up to 1[0-9], expected at most 8"),
        ("levels", lambda values: values[:2], "'levels' has 2 values, expected at least"),
        ("coarse_bits", lambda values: values[0], "'coarse_"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(name: str, broken, message: str) -> None:
    parameters = calibrated(1).parameters()
    parameters[name] = broken(parameters[name])
    with pytest.raises(ValueError, match=message):
        ViewCode.from_parameters(parameters)


def changed(views: np.ndarray, **channels: float) -> np.ndarray:
    views = views.copy()
    for name, value in channels.items():
        place = int(name[1:])
        views[..., place] = value if name[0] == "c" else views[..., place] * value
    return views


ODD_VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "outlier channels": lambda views: changed(views, f1=20, f5=20, f6=-20),
    "constant channels": lambda views: changed(views, c1=0.25, c6=-3),
    "tokens of a view alike": lambda views: np.repeat(views[:, :1], PATCHES + 1, axis=1),
    "one view": lambda views: views[:1],
    "one view many times": lambda views: np.repeat(views[:1], 50, axis=0),
    "all values alike": lambda views: np.full_like(views, 0.7),
    "nothing but zeros": np.zeros_like,
}


@pytest.mark.parametrize("rate", [2, 0.5])
@pytest.mark.parametrize("kind", ODD_VIEWS)
def test_odd_views_can_be_calibrated_from_and_encoded(kind: str, rate: float) -> None:
    """Fewer samples than dimensions, singular covariances, components without variance."""
    views = ODD_VIEWS[kind](smooth_views(100, 0))
    statistics = TargetStatistics(SHAPE)
    statistics.add(views)
    code, expected = statistics.code(rate)
    assert np.isfinite(expected.relative_error)
    assert get_precision(f"klt{rate:g}").parameter_problem(code.parameters(), SHAPE) is None
    error = np.linalg.norm(decoded(code, views) - views[:, 1:])
    usual = relative_error(decoded(calibrated(rate), smooth_views(100, 0)), smooth_views(100, 0)[:, 1:])
    assert error <= 1.2 * usual * np.linalg.norm(views[:, 1:]) + 1e-5
    others = smooth_views(5, 10_000)  # of which the calibration knew nothing
    assert np.isfinite(decoded(code, others)).all()
    assert 0 <= code.outside_share(others) <= 1


def test_bad_calibrations_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one view"):
        TargetStatistics(SHAPE).code(1)


def test_values_far_outside_are_counted() -> None:
    code, values = calibrated(1), smooth_views(20, 10_000)
    assert code.outside_share(values) == 0
    assert code.outside_share(values * np.linspace(1, 60, PATCHES + 1, dtype=np.float32)[:, None, None]) > 0.1
