"""KLT encoding and decoding on a GPU against the numpy reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from klt_views import calibrated, relative_error, smooth_views
from torch._dynamo.utils import counters

from lookonce.extract.pipeline.target_encoder import TargetEncoder
from lookonce.extract.teachers import normalise_targets
from lookonce.storage_schemas.arrays import cache_arrays
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.precision.base import TargetShape
from lookonce.storage_schemas.precision.klt.view_code import ViewCode
from lookonce.train.data.batch import StoredTargets
from lookonce.train.data.target_decoder import make_decoder

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("default")]

SHAPE = TargetShape(patches=36, layers=5, channels=32, all_patches=True)
SIDE, VIEWS = 6, 24

MOST_AT_BORDERS = 0.002
"""Share of indices that may be the neighbour: values at a border of two levels, after products summed in two orders."""


@pytest.fixture(scope="module", params=[(2, 3), (1, 2), (0.5, 1), (0.25, 3)], ids=str)
def encoding(request: pytest.FixtureRequest) -> Encoding:
    """Of some bits per value, with 9, 4 or 1 spatial functions."""
    rate, cosines = request.param
    code = calibrated(rate, shape=SHAPE, cosines=cosines, views=150)
    return Encoding(precision=f"klt{rate:g}", parameters=code.parameters())


@pytest.fixture
def code(encoding: Encoding) -> ViewCode:
    return ViewCode.from_parameters(encoding.parameters)


def views_of(seed: int) -> Any:
    return smooth_views(VIEWS, seed, side=SIDE, layers=SHAPE.layers, channels=SHAPE.channels)


def some_positions(count: int) -> Any:
    drawn = np.random.default_rng(5).random((VIEWS, SHAPE.patches)).argsort(axis=1)[:, :count]
    return np.sort(drawn, axis=1)


def test_records_are_the_references(code: ViewCode, encoding: Encoding, device: torch.device) -> None:
    values = views_of(20_000)
    stored = TargetEncoder(encoding).to(device).encode_targets(torch.from_numpy(values).to(device))
    found, wanted = {name: array.cpu().numpy() for name, array in stored.items()}, code.encode(values)
    for name, record in (("targets", code.token_record), ("coarse_targets", code.coarse_record)):
        assert (record.unpack(found[name]) != record.unpack(wanted[name])).mean() < MOST_AT_BORDERS
    np.testing.assert_array_equal(found["class_targets"], wanted["class_targets"])
    every = np.broadcast_to(np.arange(SHAPE.patches), (VIEWS, SHAPE.patches))
    errors = [
        relative_error(code.decode_patches(one["targets"], one["coarse_targets"], every, SHAPE.patches), values[:, 1:])
        for one in (found, wanted)
    ]
    assert errors[0] == pytest.approx(errors[1], rel=2e-3)


def test_block_outputs_are_normalised_and_encoded(encoding: Encoding, device: torch.device) -> None:
    values = views_of(20_000) * 3 + 1
    hidden = [torch.from_numpy(np.ascontiguousarray(values[:, :, level])) for level in range(SHAPE.layers)]
    targets, mean, std = normalise_targets(hidden)
    encoder, on_device = TargetEncoder(encoding).to(device), [level.to(device) for level in hidden]
    encoded, wanted = encoder(on_device), TargetEncoder(encoding).encode_targets(targets)
    for name, array in wanted.items():
        assert (encoded.arrays[name].cpu() != array).float().mean() < 8 * MOST_AT_BORDERS  # a byte has up to 8 indices
    torch.testing.assert_close(encoded.mean.cpu(), mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoded.std.cpu(), std, rtol=1e-5, atol=1e-5)
    assert not encoded.nonfinite.any()
    on_device[2][7, 31, 5] = float("inf")
    assert encoder(on_device).nonfinite.cpu().tolist() == [view == 7 for view in range(VIEWS)]


def test_the_same_batch_gives_the_same_bytes(
    encoding: Encoding, device: torch.device, poison: Callable[[], None]
) -> None:
    hidden = [torch.from_numpy(views_of(3)[:, :, level]).to(device) for level in range(SHAPE.layers)]
    first = TargetEncoder(encoding).to(device)(hidden).arrays
    poison()
    again = TargetEncoder(encoding).to(device)(hidden).arrays
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("layers", [[0, 1, 2, 3, 4], [4], [3, 1]], ids=["all", "last", "swapped"])
def test_decoded_values_are_the_references(
    make_manifest: Callable[..., Manifest],
    code: ViewCode,
    encoding: Encoding,
    layers: list[int],
    device: torch.device,
    compiler: None,
) -> None:
    manifest = make_manifest(view_size=8 * SIDE, layers=SHAPE.layers, width=SHAPE.channels)
    arrays = cache_arrays(manifest.recipe, precision=encoding.precision, store_pixels=True)
    decoder = make_decoder(replace(manifest, encoding=encoding, arrays=arrays), layers).to(device)
    compiled = torch.compile(decoder, fullgraph=True)  # in the trainer, it is compiled with the student
    for seed in (1, 2, 3):
        stored, positions = code.encode(views_of(seed)), some_positions(11)
        records = np.take_along_axis(stored["targets"], positions[..., None], axis=1)
        batch = StoredTargets(
            elements=torch.from_numpy(records).to(device),
            class_elements=torch.from_numpy(stored["class_targets"]).to(device),
            coarse=torch.from_numpy(stored["coarse_targets"]).to(device),
            positions=torch.from_numpy(positions).to(device),
        )
        patches = code.decode_patches(records, stored["coarse_targets"], positions, SHAPE.patches)
        wanted = np.concatenate([code.decode_class(stored["class_targets"])[:, None], patches], axis=1)[:, :, layers]
        for decode in (decoder, compiled):
            found = decode(batch)
            assert found.dtype == torch.float32
            np.testing.assert_allclose(found.cpu().numpy(), wanted, rtol=1e-5, atol=2e-5)
    assert counters["stats"]["unique_graphs"] == 1
