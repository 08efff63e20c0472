from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lookonce.shared.errors import UsageError
from lookonce.train.loop.optimization import (
    adamw,
    parameter_groups,
    scaled_learning_rate,
    set_learning_rate,
)
from lookonce.train.loop.schedule import StepSchedule
from lookonce.train.model.alignment import AlignmentConfig, DynamicAlignment
from lookonce.train.model.student import Student


@pytest.fixture(scope="module")
def training_modules() -> nn.ModuleDict:
    student = Student("vit_tiny_patch16_224", img_size=32)
    config = AlignmentConfig(adapter="mlp2")
    alignment = DynamicAlignment(config, student_blocks=12, student_dim=192, teacher_levels=12, teacher_dim=64)
    return nn.ModuleDict({"student": student, "alignment": alignment})


def test_decay_falls_on_weight_matrices_alone(training_modules: nn.ModuleDict) -> None:
    decaying, other = parameter_groups(training_modules, 0.05)
    assert (decaying["weight_decay"], other["weight_decay"]) == (0.05, 0.0)
    names = {id(parameter): name for name, parameter in training_modules.named_parameters()}
    decaying_names = {names[id(parameter)] for parameter in decaying["params"]}
    expected = {"student.model.patch_embed.proj.weight", "alignment.adapters.0.weight", "alignment.adapters.2.weight"}
    for block in range(12):
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            expected.add(f"student.model.blocks.{block}.{layer}.weight")
    assert decaying_names == expected
    other_names = {names[id(parameter)] for parameter in other["params"]}
    assert {"alignment.weight", "student.model.cls_token", "alignment.adapters.1.weight"} <= other_names
    trainable = {name for name, parameter in training_modules.named_parameters() if parameter.requires_grad}
    assert decaying_names | other_names == trainable
    assert not {"student.model.pos_embed", "student.model.norm.weight"} & trainable


def test_adamw_moves_what_has_no_gradient_signal_only_by_decay(training_modules: nn.ModuleDict) -> None:
    optimizer = adamw(training_modules, weight_decay=0.5)
    set_learning_rate(optimizer, 0.1)
    matrix = training_modules.get_submodule("alignment.adapters.0").weight
    mixture = training_modules["alignment"].weight
    before = matrix.detach().clone(), mixture.detach().clone()
    for parameter in training_modules.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    torch.testing.assert_close(matrix.detach(), before[0] * (1 - 0.1 * 0.5))
    assert torch.equal(mixture, before[1])
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.95)}


def test_learning_rate_warms_up_linearly_then_follows_half_a_cosine() -> None:
    peak = scaled_learning_rate(1.5e-4, 1024)
    at = StepSchedule(total_steps=110, warmup_steps=10, peak=peak, min_lr=1e-5).learning_rate

    assert [at(step) for step in (0, 5, 10)] == pytest.approx([0.0, peak / 2, peak])
    assert at(35) == pytest.approx(1e-5 + (peak - 1e-5) * 0.5 * (1 + math.cos(math.pi / 4)))
    assert at(110) == pytest.approx(1e-5)
    falling = [at(step) for step in range(10, 111)]
    assert falling == sorted(falling, reverse=True)


def test_no_warm_up_starts_at_the_peak() -> None:
    assert StepSchedule(total_steps=1, warmup_steps=0, peak=0.3, min_lr=0.0).learning_rate(0) == 0.3


@pytest.mark.parametrize(("step", "total", "warmup"), [(0, 10, 10), (0, 0, 0), (0, 10, -1), (11, 10, 2), (-1, 10, 2)])
def test_steps_that_do_not_fit_are_refused(step: int, total: int, warmup: int) -> None:
    with pytest.raises(UsageError, match="step"):
        StepSchedule(total_steps=total, warmup_steps=warmup, peak=1.0, min_lr=0.0).learning_rate(step)
