"""Alignment against naive loops over single adapters, and both mix orders against each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lookonce.shared.errors import UsageError
from lookonce.train.model.adapters import ADAPTERS, StackedLayerNorm, StackedLinear, build_adapters
from lookonce.train.model.alignment import AlignmentConfig, DynamicAlignment

S, T, B, N, D, C = 4, 4, 3, 5, 8, 12


def _alignment(*, student_blocks: int = S, teacher_levels: int = T, **config: Any) -> DynamicAlignment:
    alignment = DynamicAlignment(
        AlignmentConfig(**{"layer_weights": "top3", **config}),
        student_blocks=student_blocks,
        student_dim=D,
        teacher_levels=teacher_levels,
        teacher_dim=C,
        seed=3,
    )
    with torch.no_grad():  # away from the initial zeros and ones, so that every parameter matters
        for parameter in alignment.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * 0.3)
    return alignment


def _features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _single(stack: nn.Module, index: int) -> nn.Module:
    """The adapter ``index`` of a stack as plain torch modules."""
    if isinstance(stack, nn.Sequential):
        return nn.Sequential(*(_single(layer, index) for layer in stack))
    if isinstance(stack, StackedLinear):
        _, out_dim, in_dim = stack.weight.shape
        plain: nn.Linear | nn.LayerNorm = nn.Linear(in_dim, out_dim)
    elif isinstance(stack, StackedLayerNorm):
        plain = nn.LayerNorm(stack.weight.shape[1], eps=1e-6)
    else:
        return stack
    plain.load_state_dict({"weight": stack.weight[index].detach(), "bias": stack.bias[index].detach()})
    return plain


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapt_then_mix_is_the_papers_sum(adapter: str) -> None:
    alignment = _alignment(adapter=adapter)
    student = _features(S, B, N, D)
    assert alignment.weight is not None
    expected = torch.zeros(3, B, N, C)
    for level in range(3):
        for block in range(S):
            expected[level] += alignment.weight[level, block] * _single(alignment.adapters, block)(student[block])
    torch.testing.assert_close(alignment.predict(student), expected)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_mix_then_adapt_is_the_released_codes_order(adapter: str) -> None:
    alignment = _alignment(adapter=adapter, mix_order="mix-then-adapt", student_blocks=6)
    student = _features(6, B, N, D)
    assert alignment.weight is not None
    for level, found in enumerate(alignment.predict(student)):
        mixed = sum(alignment.weight[level, block] * student[block] for block in range(6))
        torch.testing.assert_close(found, _single(alignment.adapters, level)(mixed))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_layerwise_takes_each_level_from_its_own_block(adapter: str) -> None:
    alignment = _alignment(adapter=adapter, alignment="layerwise", layer_weights="mid2")
    student = _features(S, B, N, D)
    assert alignment.weight is None
    torch.testing.assert_close(alignment.predict(student)[0], _single(alignment.adapters, 0)(student[2]))
    assert alignment.blocks_needed == 3 < S
    assert torch.equal(alignment.predict(student[:3]), alignment.predict(student))
    with pytest.raises(UsageError, match="the first 3 of 4 student blocks, found 2"):
        alignment.predict(student[:2])


def test_both_mix_orders_agree_when_one_linear_map_serves_all() -> None:
    first, last = _alignment(), _alignment(mix_order="mix-then-adapt")
    assert first.weight is not None
    assert last.weight is not None
    with torch.no_grad():
        for alignment in (first, last):  # one matrix for all adapters, no bias: mixing and mapping commute
            alignment.adapters.weight.copy_(_features(1, C, D, seed=7))
            alignment.adapters.bias.zero_()
        last.weight.copy_(first.weight)
    student = _features(S, B, N, D)
    torch.testing.assert_close(first.predict(student), last.predict(student), rtol=1e-5, atol=1e-5)


def test_a_list_of_blocks_is_as_good_as_a_tensor() -> None:
    alignment, student = _alignment(), _features(S, B, N, D)
    assert torch.equal(alignment.predict(list(student)), alignment.predict(student))


@pytest.mark.parametrize(
    ("loss", "element"),
    [("l1", functional.l1_loss), ("l2", functional.mse_loss), ("smooth-l1", functional.smooth_l1_loss)],
)
def test_loss_is_the_scaled_weighted_mean(loss: str, element: Any) -> None:
    alignment = _alignment(loss=loss, layer_weights="linear-decay", loss_scale=2.0)
    targets = _features(B, N, 3, C, seed=1) * 3
    output = alignment(_features(S, B, N, D), targets)
    levels = torch.stack([element(output.predictions[level], targets[:, :, level]) for level in range(3)])
    torch.testing.assert_close(output.level_losses, levels)
    torch.testing.assert_close(output.loss, 2.0 * (levels * torch.tensor([1.0, 2.0, 3.0]) / 6).sum())


def test_loss_of_bfloat16_predictions_is_float32() -> None:
    alignment = _alignment()
    with torch.autocast("cpu", torch.bfloat16):
        output = alignment(_features(S, B, N, D), _features(B, N, 3, C, seed=1))
    assert output.predictions.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    exact = alignment(_features(S, B, N, D), _features(B, N, 3, C, seed=1))
    torch.testing.assert_close(output.loss, exact.loss, rtol=0.02, atol=0)


def test_initial_mixture() -> None:
    def weight(student_blocks: int) -> Tensor:
        alignment = DynamicAlignment(
            AlignmentConfig(layer_weights="top2"),
            student_blocks=student_blocks,
            student_dim=D,
            teacher_levels=T,
            teacher_dim=C,
        )
        assert alignment.weight is not None
        return alignment.weight.detach()

    torch.testing.assert_close(weight(4), torch.tensor([[0, 0, 1, 0], [0, 0, 0, 1]]) + 0.01)
    torch.testing.assert_close(weight(5), torch.full((2, 5), 0.2))


def test_adapters_start_xavier_uniform_with_zero_bias_whatever_the_global_seed() -> None:
    def build(seed: int) -> nn.Module:
        return build_adapters("mlp2", count=3, in_dim=64, out_dim=96, generator=torch.Generator().manual_seed(seed))

    before = torch.get_rng_state()
    adapters = build(1)
    assert torch.equal(torch.get_rng_state(), before)
    last = adapters.get_submodule("2")
    bound = (6 / (64 + 96)) ** 0.5
    for matrix in last.weight.detach():
        assert 0.98 * bound < float(matrix.abs().max()) <= bound
    assert last.bias.count_nonzero() == 0
    assert not torch.equal(last.weight[0], last.weight[1])
    assert torch.equal(build(1).get_submodule("2").weight, last.weight)
    assert not torch.equal(build(2).get_submodule("2").weight, last.weight)


def test_gradients_reach_every_parameter_and_every_student_block() -> None:
    alignment, student = _alignment(adapter="mlp2"), _features(S, B, N, D).requires_grad_()
    alignment(student, _features(B, N, 3, C, seed=1)).loss.backward()
    assert all(p.grad is not None and p.grad.count_nonzero() for p in alignment.parameters())
    assert student.grad is not None
    assert all(block.count_nonzero() for block in student.grad)


def test_state_holds_the_parameters_alone() -> None:
    assert sorted(_alignment().state_dict()) == ["adapters.bias", "adapters.weight", "weight"]


def test_layerwise_with_differing_depth_is_refused() -> None:
    with pytest.raises(UsageError, match="6 blocks and the teacher 4"):
        _alignment(alignment="layerwise", student_blocks=6)


def test_wrong_shapes_are_refused() -> None:
    alignment = _alignment()
    with pytest.raises(UsageError, match="the first 4 of 4 student blocks, found 3"):
        alignment(_features(3, B, N, D), _features(B, N, 3, C))
    with pytest.raises(UsageError, match=r"expected shape \(3, 5, 3, 12\).*found \(3, 5, 4, 12\)"):
        alignment(_features(S, B, N, D), _features(B, N, 4, C))


@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("alignment", "dynamic, layerwise"),
        ("mix_order", "adapt-then-mix, mix-then-adapt"),
        ("adapter", "linear, norm-linear, mlp, mlp2"),
        ("layer_weights", "topK"),
        ("loss", "smooth-l1, l2, l1"),
        ("target_norm", "whiten, none, l2, bn"),
    ],
)
def test_unknown_names_list_the_known(field: str, known: str) -> None:
    with pytest.raises(UsageError, match=known):
        AlignmentConfig(**{field: "nonsense"})  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_loss_scale_must_be_positive(scale: float) -> None:
    with pytest.raises(UsageError, match="--loss-scale"):
        AlignmentConfig(loss_scale=scale)
