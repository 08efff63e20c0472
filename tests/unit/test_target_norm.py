"""Targets recovered from cached numbers equal those made from the raw features themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lookonce.shared.errors import UsageError
from lookonce.train.data.target_norm import level_statistics, recover_targets

SAMPLES, TOKENS, LEVELS, CHANNELS = 3, 7, 2, 16
VISIBLE = [0, 2, 5]


@pytest.fixture
def raw() -> Tensor:
    """Features with an outlier channel and a large offset, as real teachers have: (B, N, L, C)."""
    features = torch.randn(SAMPLES, TOKENS, LEVELS, CHANNELS, generator=torch.Generator().manual_seed(0))
    features[..., 3] += 20.0
    return features * 0.5 + 3.0


def _cached(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    std = (raw.var(dim=-1, unbiased=False) + 1e-5).sqrt()
    return functional.layer_norm(raw, raw.shape[-1:]), raw.mean(dim=-1), std


def _recover(kind: str, raw: Tensor) -> Tensor:
    whitened, mean, std = _cached(raw)
    statistics = level_statistics(mean, std, CHANNELS)
    return recover_targets(kind, whitened[:, VISIBLE], mean[:, VISIBLE], std[:, VISIBLE], statistics)


def test_whiten_is_what_the_cache_holds(raw: Tensor) -> None:
    assert torch.equal(_recover("whiten", raw), functional.layer_norm(raw, (CHANNELS,))[:, VISIBLE])


def test_none_is_the_raw_feature(raw: Tensor) -> None:
    torch.testing.assert_close(_recover("none", raw), raw[:, VISIBLE])


def test_l2_has_unit_length(raw: Tensor) -> None:
    torch.testing.assert_close(_recover("l2", raw), functional.normalize(raw, dim=-1)[:, VISIBLE])


def test_bn_has_the_moments_of_all_tokens_of_a_level_not_of_the_visible_ones(raw: Tensor) -> None:
    mean = raw.mean(dim=(0, 1, 3), keepdim=True)
    variance = raw.var(dim=(0, 1, 3), keepdim=True, unbiased=True)
    torch.testing.assert_close(_recover("bn", raw), ((raw - mean) / (variance + 1e-6).sqrt())[:, VISIBLE])


def test_level_statistics_do_not_cancel_far_from_zero() -> None:
    raw = torch.randn(4, 50, 1, 64, generator=torch.Generator().manual_seed(1)) * 0.1 + 1000.0
    _, mean, std = _cached(raw.double())
    statistics = level_statistics(mean.float(), std.float(), 64)
    torch.testing.assert_close(statistics.variance, raw.double().var().float().reshape(1), rtol=1e-2, atol=0)


def test_bn_without_statistics_says_what_it_needs(raw: Tensor) -> None:
    with pytest.raises(UsageError, match="all tokens"):
        recover_targets("bn", *_cached(raw))


def test_unknown_kind_lists_the_known(raw: Tensor) -> None:
    with pytest.raises(UsageError, match="whiten, none, l2, bn"):
        recover_targets("zca", *_cached(raw))
