"""Encoding and decoding on a GPU against the numpy reference: elements to the bit, decoded values to the rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lookonce.extract.pipeline.target_encoder import TargetEncoder
from lookonce.extract.teachers import normalise_targets
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.precision import PRECISIONS, ElementPrecision, get_element_precision
from lookonce.train.data.target_decoder import TargetDecoder

ELEMENT_PRECISIONS = [name for name, precision in PRECISIONS.items() if isinstance(precision, ElementPrecision)]

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("default"),
    pytest.mark.parametrize("name", ELEMENT_PRECISIONS),
]

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def values() -> Floats:
    """LayerNormed features with outlier channels, (token, layer, channel)."""
    values = np.random.default_rng(0).normal(size=(1200, 5, 256))
    values[..., (3, 50, 100, 200)] += np.array([15.0, -18.0, 21.0, -25.0])
    centred = values - values.mean(-1, keepdims=True)
    return (centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5)).astype(np.float32)


def encoding_of(name: str, values: Floats) -> Encoding:
    return Encoding(precision=name, parameters=get_element_precision(name).calibrate(values))


def test_elements_and_saturation_are_the_references(name: str, values: Floats, device: torch.device) -> None:
    precision, encoding = get_element_precision(name), encoding_of(name, values)
    extreme = np.concatenate([values, values[:8] * 40, np.zeros_like(values[:2])])
    plan = precision.plan(encoding.parameters)
    if plan.levels is not None:  # every threshold itself, and its neighbours, in each channel
        scale, offset = plan.affine
        edges = plan.thresholds[:, None, None] * scale + offset
        extreme = np.concatenate([extreme, edges, np.nextafter(edges, np.inf), np.nextafter(edges, -np.inf)])
    stored, saturated = TargetEncoder(encoding).to(device).encode(torch.from_numpy(extreme).to(device))
    np.testing.assert_array_equal(stored.cpu().numpy(), precision.encode(extreme, encoding.parameters))
    share = precision.saturated_share(extreme, encoding.parameters)
    assert int(saturated) == round(share * extreme.size)


def test_block_outputs_are_normalised_and_encoded(name: str, values: Floats, device: torch.device) -> None:
    """LayerNorm adds up in another order than on a CPU: where a value lies on an edge, its element may be the next."""
    hidden = [torch.from_numpy(values[:, level].reshape(12, 100, 256) * 3 + 1) for level in range(5)]
    targets, mean, std = normalise_targets(hidden)
    encoding = encoding_of(name, targets.flatten(0, 1).numpy())
    encoder, on_device = TargetEncoder(encoding).to(device), [level.to(device) for level in hidden]
    kept = torch.stack([torch.randperm(100)[:30].sort().values for _ in range(12)])
    whole, some = encoder(on_device), encoder(on_device, kept.to(device))
    torch.testing.assert_close(whole.mean.cpu(), mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole.std.cpu(), std, rtol=1e-5, atol=1e-5)
    precision = get_element_precision(name)
    decoded = precision.decode(whole.stored.cpu().numpy(), encoding.parameters)
    wanted = precision.decode(precision.encode(targets.numpy(), encoding.parameters), encoding.parameters)
    assert (np.abs(decoded - wanted) > 1e-6).mean() < 1e-3
    assert np.linalg.norm(decoded - wanted) < 1e-2 * np.linalg.norm(wanted)
    samples = torch.arange(12)[:, None]
    assert torch.equal(some.stored.cpu(), whole.stored.cpu()[samples, kept])
    assert torch.equal(some.std.cpu(), whole.std.cpu()[samples, kept])
    assert not whole.nonfinite.any()
    on_device[2][7, 31, 5] = float("inf")
    assert encoder(on_device).nonfinite.cpu().tolist() == [sample == 7 for sample in range(12)]


@pytest.mark.parametrize("layers", [[0, 1, 2, 3, 4], [4], [3, 1]], ids=["all", "last", "swapped"])
def test_decoded_values_are_the_references(name: str, layers: list[int], values: Floats, device: torch.device) -> None:
    odd = np.ascontiguousarray(values[..., :253])  # fills no whole number of bytes
    precision, encoding = get_element_precision(name), encoding_of(name, odd)
    stored = precision.encode(odd, encoding.parameters).reshape(12, 100, 5, -1)
    reference = precision.decode(stored, encoding.parameters, channels=253)[:, :, layers]
    decoder = TargetDecoder(encoding, layers, 253).to(device)
    backend = "inductor" if device.type == "cuda" else "eager"  # in the trainer, it is compiled with the student
    torch._dynamo.reset()
    for decode in (decoder, torch.compile(decoder, fullgraph=True, backend=backend)):
        found = decode(torch.from_numpy(stored).to(device))
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.cpu().numpy(), reference, rtol=1e-6, atol=4e-6)  # a fused step rounds once
