"""The KLT precisions on devices: encoder and decoder against the numpy reference, through torch.compile, and Ray."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from klt_views import CHANNELS, LAYERS, PATCHES, SHAPE, SIDE, calibrated, relative_error, smooth_views

from lookonce.extract.pipeline import target_encoder
from lookonce.extract.pipeline.target_encoder import TargetEncoder
from lookonce.extract.pipeline.view_encoder import ViewEncoder
from lookonce.extract.teachers import normalise_targets
from lookonce.storage_schemas.arrays import cache_arrays
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.precision import get_precision
from lookonce.storage_schemas.precision.klt.calibration import TargetStatistics
from lookonce.storage_schemas.precision.klt.precision import RATES, KltPrecision
from lookonce.storage_schemas.precision.klt.view_code import ViewCode
from lookonce.storage_schemas.tokens import TopTokens
from lookonce.train.data.batch import StoredTargets
from lookonce.train.data.target_decoder import make_decoder
from lookonce.train.data.view_decoder import ViewDecoder

MOST_AT_BORDERS = 0.002
"""Share of indices that may be the neighbour: values at a border of two levels, after products summed in two orders."""

NAMES = [f"klt{rate:g}" for rate in RATES]


def mean_only(rate: float) -> ViewCode:
    """The code of a cache that stores some patches: its only spatial function is the mean."""
    statistics = TargetStatistics(dataclasses.replace(SHAPE, all_patches=False))
    for start in range(0, 400, 50):
        statistics.add(smooth_views(50, start))
    return statistics.code(rate)[0]


CODES = {"F=9": lambda: calibrated(1, cosines=3), "F=4": lambda: calibrated(1), "F=1": lambda: mean_only(1)}


def manifest_of(make_manifest: Any, code: ViewCode, rate: float = 1) -> Manifest:
    """A manifest of 25 patches with the code."""
    manifest: Manifest = make_manifest(precision="int8", view_size=8 * SIDE, layers=LAYERS, width=CHANNELS)
    encoding = Encoding(precision=f"klt{rate:g}", parameters=code.parameters())
    arrays = cache_arrays(manifest.recipe, precision=encoding.precision, store_pixels=True)
    return dataclasses.replace(manifest, encoding=encoding, arrays=arrays)


def as_batch(stored: dict[str, np.ndarray], positions: np.ndarray) -> StoredTargets:
    records = np.take_along_axis(stored["targets"], positions[..., None], axis=1)
    return StoredTargets(
        elements=torch.from_numpy(records),
        class_elements=torch.from_numpy(stored["class_targets"]),
        coarse=torch.from_numpy(stored["coarse_targets"]),
        positions=torch.from_numpy(positions),
    )


def some_positions(views: int, count: int) -> np.ndarray:
    drawn = np.random.default_rng(5).random((views, PATCHES)).argsort(axis=1)[:, :count]
    return np.sort(drawn, axis=1)


def test_all_kinds_of_coarse_part_are_tested() -> None:
    assert {name: CODES[name]().functions for name in CODES} == {"F=9": 9, "F=4": 4, "F=1": 1}


@pytest.mark.parametrize(
    "make_code",
    [*CODES.values(), *(functools.partial(calibrated, rate) for rate in RATES)],
    ids=[*CODES, *(f"{rate:g} bits" for rate in RATES)],
)
def test_encoder_gives_the_references_indices(make_code: Callable[[], ViewCode]) -> None:
    code, values = make_code(), smooth_views(40, 20_000)
    stored, outside = ViewEncoder(code.parameters())(torch.from_numpy(values))
    wanted = code.encode(values)
    assert {name: (array.dtype, tuple(array.shape)) for name, array in stored.items()} == {
        name: (torch.uint8, array.shape) for name, array in wanted.items()
    }
    for name, record in (("targets", code.token_record), ("coarse_targets", code.coarse_record)):
        found, expected = record.unpack(stored[name].numpy()), record.unpack(wanted[name])
        assert (found != expected).mean() < MOST_AT_BORDERS
    np.testing.assert_array_equal(stored["class_targets"].numpy(), wanted["class_targets"])
    assert int(outside) == 0
    positions = np.broadcast_to(np.arange(PATCHES), (40, PATCHES))
    decoded = [
        code.decode_patches(np.asarray(one["targets"]), np.asarray(one["coarse_targets"]), positions, PATCHES)
        for one in (stored, wanted)
    ]
    assert relative_error(decoded[0], decoded[1]) < 0.03
    errors = [relative_error(one, values[:, 1:]) for one in decoded]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


@pytest.mark.parametrize("kind", CODES)
def test_encoder_counts_components_outside_as_the_reference(kind: str) -> None:
    code, values = CODES[kind](), smooth_views(20, 10_000)
    far = values * np.linspace(1, 60, PATCHES + 1, dtype=np.float32)[:, None, None]
    _, outside = ViewEncoder(code.parameters())(torch.from_numpy(far))
    components = 20 * PATCHES * code.basis.shape[1]
    assert int(outside) / components == pytest.approx(code.outside_share(far), rel=1e-3)
    assert int(outside) > 0.1 * components


@pytest.mark.parametrize("kind", CODES)
def test_encoding_in_chunks_gives_the_same_bytes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = smooth_views(6, 1)
    hidden = [torch.from_numpy(np.ascontiguousarray(values[:, :, level])) for level in range(LAYERS)]
    targets, mean, _ = normalise_targets(hidden)
    encoder = TargetEncoder(Encoding(precision="klt1", parameters=CODES[kind]().parameters()))
    kept = torch.from_numpy(np.pad(some_positions(6, PATCHES) + 1, ((0, 0), (1, 0))))
    whole = encoder.encode_targets(targets)
    for samples in (6, 4, 1):  # at a time
        monkeypatch.setattr(target_encoder, "VIEW_VALUES_PER_CHUNK", {"cpu": samples * targets[0].numel()})
        encoded, of_all = encoder(hidden), encoder(hidden, kept)
        for name, wanted in whole.items():
            assert (encoded.arrays[name] != wanted).float().mean() < MOST_AT_BORDERS
            assert torch.equal(of_all.arrays[name], encoded.arrays[name])
        assert torch.equal(encoded.mean, mean)
        assert not encoded.nonfinite.any()
        assert encoded.judged == 6 * PATCHES * CODES[kind]().basis.shape[1]
    hidden[1][2, 7, 3] = float("nan")
    assert encoder(hidden).nonfinite.tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("layers", [[0, 1, 2], [2], [2, 0]], ids=["all", "last", "swapped"])
@pytest.mark.parametrize("kind", CODES)
def test_decoder_gives_the_references_values(make_manifest, kind: str, layers: list[int]) -> None:
    code = CODES[kind]()
    decoder = make_decoder(manifest_of(make_manifest, code), layers)
    assert isinstance(decoder, ViewDecoder)
    values = smooth_views(5, 20_000)
    stored, positions = code.encode(values), some_positions(5, 7)
    found = decoder.decode(as_batch(stored, positions))
    assert (found.dtype, tuple(found.shape)) == (torch.float32, (5, 8, len(layers), CHANNELS))
    records = np.take_along_axis(stored["targets"], positions[..., None], axis=1)
    patches = code.decode_patches(records, stored["coarse_targets"], positions, PATCHES)
    classes = code.decode_class(stored["class_targets"])
    np.testing.assert_allclose(found[:, 1:].numpy(), patches[:, :, layers], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[:, 0].numpy(), classes[:, layers], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
def test_every_rate_decodes_as_the_precision_says(make_manifest, rate: float) -> None:
    code, values = calibrated(rate), smooth_views(3, 7)
    stored, positions = code.encode(values), np.tile(np.arange(PATCHES), (3, 1))
    found = make_decoder(manifest_of(make_manifest, code, rate), [0, 1, 2]).decode(as_batch(stored, positions))
    wanted = get_precision(f"klt{rate:g}").decode_views(stored, code.parameters(), SHAPE)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", CODES)
def test_the_decoder_compiles_to_one_graph_once(make_manifest, kind: str) -> None:
    code = CODES[kind]()
    decoder = make_decoder(manifest_of(make_manifest, code), [0, 2])
    graphs = []

    def count(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(decoder, fullgraph=True, backend=count)
    for seed in (1, 2):
        batch = as_batch(code.encode(smooth_views(4, seed)), some_positions(4, 6))
        torch.testing.assert_close(compiled(batch), decoder(batch))
    assert len(graphs) == 1


def test_a_batch_without_its_coarse_part_is_refused(make_manifest) -> None:
    code = calibrated(1)
    batch = as_batch(code.encode(smooth_views(2, 1)), some_positions(2, 3))
    decoder = make_decoder(manifest_of(make_manifest, code), [0])
    for name in ("coarse", "class_elements", "positions"):
        with pytest.raises(ValueError, match="need their coarse part, class tokens and positions"):
            decoder.decode(dataclasses.replace(batch, **{name: None}))


@pytest.mark.filterwarnings("error")
def test_read_only_parameters_serve(make_manifest) -> None:
    """Arrays that come through Ray are read-only."""
    code, values = calibrated(0.5), smooth_views(2, 1)
    parameters = {name: array.copy() for name, array in code.parameters().items()}
    for array in parameters.values():
        array.flags.writeable = False
    stored, _ = ViewEncoder(parameters)(torch.from_numpy(values))
    manifest = manifest_of(make_manifest, ViewCode.from_parameters(parameters), 0.5)
    batch = as_batch({name: array.numpy() for name, array in stored.items()}, some_positions(2, 3))
    assert make_decoder(manifest, [0, 1, 2]).decode(batch).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_what_a_view_stores_is_known_before_calibration(name: str) -> None:
    precision = get_precision(name)
    assert isinstance(precision, KltPrecision)
    code = calibrated(precision.rate)
    stored = precision.encode_views(smooth_views(2, 1), code.parameters())
    assert [(array.name, array.dtype, array.shape) for array in precision.arrays(SHAPE)] == [
        (name, str(values.dtype), values.shape[1:]) for name, values in stored.items()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_an_encoding_survives_its_object_and_its_document(name: str, tmp_path) -> None:
    from safetensors.numpy import load

    encoding = Encoding(precision=name, parameters=calibrated(float(name[3:])).parameters())
    again = Encoding.from_document(encoding.document(), lambda _: load(encoding.object_content()))
    assert (again.digest, again.object_content()) == (encoding.digest, encoding.object_content())
    for key, values in encoding.parameters.items():
        np.testing.assert_array_equal(again.parameters[key], values)


def test_a_token_subset_has_no_cosines(make_manifest) -> None:
    manifest = make_manifest(precision="klt1", tokens=TopTokens(share=0.5), layers=LAYERS, width=CHANNELS)
    assert ViewCode.from_parameters(manifest.encoding.parameters).functions == 1
