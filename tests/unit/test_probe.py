"""The linear probe's parts against computations by hand in numpy, float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from lookonce.shared.errors import UsageError
from lookonce.train.evaluation.linear_probe.probe_config import LARS_FROM, RECIPES, LinearProbeConfig, ProbeRecipe
from lookonce.train.evaluation.linear_probe.probe_head import LinearProbe, probe_optimizer


def features(rows: int = 12, channels: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed)) * 3 + 2


def test_batch_norm_has_no_affine_and_tracks_batch_statistics() -> None:
    probe = LinearProbe(5, 3, seed=0)
    assert [name for name, _ in probe.named_parameters()] == ["linear.weight", "linear.bias"]
    assert probe.norm.eps == 1e-6
    mean, variance = np.zeros(5), np.ones(5)
    weight, bias = (value.detach().double().numpy() for value in (probe.linear.weight, probe.linear.bias))
    for step in range(3):
        batch = features(seed=step)
        exact = batch.double().numpy()
        normed = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-6)
        np.testing.assert_allclose(probe(batch).detach().numpy(), normed @ weight.T + bias, atol=1e-6)
        mean = 0.9 * mean + 0.1 * exact.mean(0)
        variance = 0.9 * variance + 0.1 * exact.var(0, ddof=1)
    probe.eval()
    exact = features(seed=9).double().numpy()
    expected = (exact - mean) / np.sqrt(variance + 1e-6) @ weight.T + bias
    np.testing.assert_allclose(probe(features(seed=9)).detach().numpy(), expected, atol=1e-6)


def test_folded_is_the_same_probe_as_one_linear_layer() -> None:
    probe = LinearProbe(5, 3, seed=0)
    for step in range(5):
        probe(features(seed=step))
    torch.nn.init.normal_(probe.linear.bias)
    probe.eval()
    torch.testing.assert_close(functional.linear(features(), *probe.folded()), probe(features()))


def test_first_weights_are_the_seeds_and_leave_global_randomness_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    one, same, other = (LinearProbe(400, 30, seed=seed).linear.weight for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.std().item() == pytest.approx(0.01, rel=0.05)
    assert one.abs().max().item() <= 2.0  # cut off at two, which no value of this spread reaches


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_lars_by_hand(decay: float) -> None:
    """arXiv 1708.03888, algorithm 1, with MAE's momentum: the rate is not in the buffer, the bias is not adapted."""
    probe = LinearProbe(5, 3, seed=0).double()
    recipe = ProbeRecipe(**{**RECIPES["lars"].document(), "weight_decay": decay})
    optimizer = probe_optimizer(probe, recipe)
    generator = np.random.default_rng(0)
    weight, bias = (value.detach().numpy().copy() for value in (probe.linear.weight, probe.linear.bias))
    weight_buffer, bias_buffer = np.zeros_like(weight), np.zeros_like(bias)
    for rate in (0.0, 4.0, 3.0, 0.5):
        weight_gradient, bias_gradient = generator.normal(size=weight.shape), generator.normal(size=bias.shape)
        probe.linear.weight.grad, probe.linear.bias.grad = map(torch.tensor, (weight_gradient, bias_gradient))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        length = np.linalg.norm(weight)
        local = 1e-3 * length / (np.linalg.norm(weight_gradient) + decay * length)
        weight_buffer = 0.9 * weight_buffer + local * (weight_gradient + decay * weight)
        bias_buffer = 0.9 * bias_buffer + bias_gradient
        weight, bias = weight - rate * weight_buffer, bias - rate * bias_buffer
        np.testing.assert_allclose(probe.linear.weight.detach().numpy(), weight, rtol=1e-6)
        np.testing.assert_allclose(probe.linear.bias.detach().numpy(), bias, rtol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_bias_never_decays(name: str) -> None:
    probe = LinearProbe(5, 3, seed=0)
    torch.nn.init.ones_(probe.linear.bias)
    optimizer = probe_optimizer(probe, RECIPES[name])
    before = probe.linear.weight.detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    for parameter in probe.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(probe.linear.bias, torch.ones(3))
    torch.testing.assert_close(probe.linear.weight.detach(), before * (1 - 0.5 * RECIPES[name].weight_decay))


def test_the_papers_recipe_is_the_default_for_much_data_and_sgd_for_little() -> None:
    paper = LinearProbeConfig().recipe(LARS_FROM)
    assert (paper.optimizer, paper.epochs, paper.probe_batch_size, paper.base_lr) == ("lars", 90, 16384, 0.025)
    assert (paper.augment, paper.warmup_epochs, paper.weight_decay) == ("crop-flip", 10, 0)
    assert LinearProbeConfig().recipe(LARS_FROM - 1) == RECIPES["sgd"]
    assert LinearProbeConfig(optimizer="lars").recipe(600) == RECIPES["lars"]


def test_what_is_given_goes_before_the_recipes() -> None:
    recipe = LinearProbeConfig(optimizer="adamw", augment="crop-flip", base_lr=0.0, epochs=20).recipe(600)
    assert (recipe.augment, recipe.base_lr, recipe.epochs, recipe.warmup_epochs) == ("crop-flip", 0.0, 20, 2)
    assert recipe.weight_decay == RECIPES["adamw"].weight_decay


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epochs": 0}, "--epochs 0: must be at least 1"),
        ({"probe_batch_size": 1}, "--probe-batch-size 1: must be at least 2"),
        ({"base_lr": -1.0}, r"--base-lr -1\.0: must be at least 0"),
        ({"weight_decay": float("nan")}, "--weight-decay nan"),
        ({"warmup_epochs": float("inf")}, "--warmup-epochs inf"),
        ({"seed": -1}, "--seed -1"),
        ({"epochs": 5, "warmup_epochs": 5.0}, r"--warmup-epochs 5\.0: must be fewer than the 5 epochs"),
    ],
)
def test_values_out_of_range_are_refused(flags: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LinearProbeConfig(**flags).recipe(600)  # type: ignore[arg-type]
