"""The student against timm's own forward, and what it refuses."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor

from lookonce.shared.errors import UsageError
from lookonce.train.model.position import sincos_position_embedding
from lookonce.train.model.student import Student

NAME, IMG, PATCH, GRID = "vit_tiny_patch16_224", 64, 16, 4


@pytest.fixture(scope="module")
def student() -> Student:
    return Student(NAME, img_size=IMG, seed=1)


@pytest.fixture(scope="module")
def views() -> Tensor:
    """Random views, uint8 (2, row, column, channel)."""
    return torch.randint(0, 256, (2, IMG, IMG, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def _patches(views_BHWC: Tensor) -> Tensor:
    """All patches, numbered row by row, each in (row, column, channel) order."""
    cut = views_BHWC.reshape(-1, GRID, PATCH, GRID, PATCH, 3).permute(0, 1, 3, 2, 4, 5)
    return cut.reshape(-1, GRID * GRID, PATCH * PATCH * 3)


def _normalised(views_BHWC: Tensor) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((views_BHWC.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def test_all_patches_visible_equals_timm(student: Student, views: Tensor) -> None:
    every = torch.arange(GRID * GRID).expand(2, -1)
    outputs = student(_patches(views), every)
    plain = timm.create_model(NAME, img_size=IMG)
    left_out = plain.load_state_dict(student.export_state(), strict=False)
    assert left_out.unexpected_keys == []
    assert left_out.missing_keys == ["head.weight", "head.bias"]
    expected = plain.eval().forward_intermediates(
        _normalised(views), intermediates_only=True, output_fmt="NLC", return_prefix_tokens=True
    )
    assert len(outputs) == len(expected) == 12
    for found, (patches, prefix) in zip(outputs, expected, strict=True):
        torch.testing.assert_close(found, torch.cat([prefix, patches], dim=1), rtol=1e-4, atol=1e-4)


def test_visible_patches_in_any_order_equal_timm_on_those_tokens(student: Student, views: Tensor) -> None:
    ids = torch.tensor([[9, 2, 14], [0, 15, 7]])
    patches = _patches(views).gather(1, ids.unsqueeze(-1).expand(-1, -1, PATCH * PATCH * 3))
    model = student.model
    embedded = model._pos_embed(model.patch_embed(_normalised(views)))
    kept = torch.cat([torch.zeros(2, 1, dtype=torch.int64), ids + 1], dim=1)
    tokens = embedded.gather(1, kept.unsqueeze(-1).expand(-1, -1, student.dim))
    expected = model.blocks(tokens)
    torch.testing.assert_close(student(patches, ids)[-1], expected, rtol=1e-4, atol=1e-4)


def test_gradients_reach_all_but_positions_and_final_norm(student: Student, views: Tensor) -> None:
    student.zero_grad()
    ids = torch.tensor([[3, 8], [1, 12]])
    patches = _patches(views).gather(1, ids.unsqueeze(-1).expand(-1, -1, PATCH * PATCH * 3))
    sum(output.square().mean() for output in student(patches, ids)).backward()
    without = {name for name, p in student.model.named_parameters() if p.grad is None}
    assert without == {"pos_embed", "norm.weight", "norm.bias"}
    frozen = {name for name, p in student.model.named_parameters() if not p.requires_grad}
    assert frozen == without


def test_checkpointing_keeps_less_and_gives_the_same_numbers(views: Tensor) -> None:
    patches, ids = _patches(views), torch.arange(GRID * GRID).expand(2, -1)
    scales = torch.rand(6, 2, 2, generator=torch.Generator().manual_seed(0))
    kept, features, gradients = [], [], []
    for checkpointing in (False, True):
        student = Student("test_vit", img_size=IMG, activation_checkpointing=checkpointing)
        saved: dict[int, int] = {}

        def keep(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = student(patches, ids, scales)
        torch.stack(outputs).square().sum().backward()  # type: ignore[no-untyped-call]
        kept.append(sum(saved.values()))
        features.append(outputs)
        gradients.append([parameter.grad for parameter in student.parameters() if parameter.grad is not None])
    assert kept[1] < kept[0] / 3
    assert all(torch.equal(*pair) for pair in zip(*features, strict=True))
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_the_first_blocks_alone(views: Tensor) -> None:
    student = Student("test_vit", img_size=IMG)
    patches, ids = _patches(views), torch.arange(GRID * GRID).expand(2, -1)
    first, every = student(patches, ids, blocks=2), student(patches, ids)
    assert len(first) == 2 < len(every) == 6
    assert all(torch.equal(*pair) for pair in zip(first, every[:2], strict=True))


def test_initial_weights(student: Student) -> None:
    model = student.model
    assert torch.equal(model.pos_embed[0], sincos_position_embedding(192, GRID))
    patch_bound = (6 / (192 + PATCH * PATCH * 3)) ** 0.5  # fan of the linear layer on a whole patch
    assert 0.99 * patch_bound < float(model.patch_embed.proj.weight.detach().abs().max()) <= patch_bound
    qkv_bound = (6 / (192 + 3 * 192)) ** 0.5
    for block in model.blocks:
        assert 0.99 * qkv_bound < float(block.attn.qkv.weight.detach().abs().max()) <= qkv_bound
    assert 0.015 < float(model.cls_token.detach().std()) < 0.025
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert all(bias.count_nonzero() == 0 for bias in biases)


def test_the_seed_alone_decides_the_weights() -> None:
    torch.manual_seed(1)
    state_before = torch.get_rng_state()
    first = Student(NAME, img_size=32, seed=4).export_state()
    assert torch.equal(torch.get_rng_state(), state_before)
    torch.manual_seed(2)
    second = Student(NAME, img_size=32, seed=4).export_state()
    other = Student(NAME, img_size=32, seed=5).export_state()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["blocks.3.mlp.fc1.weight"], other["blocks.3.mlp.fc1.weight"])


def test_exported_state_is_a_copy(student: Student) -> None:
    student.export_state()["cls_token"].add_(1.0)
    assert float(student.model.cls_token.detach().abs().max()) < 0.5


def test_scaled_branches_equal_timms_block_with_its_branches_scaled(student: Student, views: Tensor) -> None:
    every, patches = torch.arange(GRID * GRID).expand(2, -1), _patches(views)
    assert torch.equal(student(patches, every)[-1], student(patches, every, torch.ones(12, 2, 2))[-1])
    scales = torch.tensor([0.0, 2.0]).repeat(12, 2, 1)  # the first sample without branches, the second with twice them
    first, second = student(patches, every, scales)[-1]
    torch.testing.assert_close(first, student(patches, every, torch.zeros(12, 2, 2))[-1][0])
    tokens = student.model._pos_embed(student.model.patch_embed(_normalised(views)))
    torch.testing.assert_close(first, tokens[0], rtol=1e-4, atol=1e-4)
    tokens = tokens[1:]
    for block in student.model.blocks:
        tokens = tokens + 2 * block.attn(block.norm1(tokens))
        tokens = tokens + 2 * block.mlp(block.norm2(tokens))
    torch.testing.assert_close(second, tokens[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no_such_model", "timm has no model"),
        ("resnet18", "does not fit"),
        ("swin_tiny_patch4_window7_224", "SwinTransformer"),
        ("vit_base_patch16_siglip_224", "no class token"),
        ("vit_small_patch14_reg4_dinov2", "4 tokens"),
        ("deit_tiny_distilled_patch16_224", "1 tokens"),
        ("deit3_small_patch16_224", "no absolute position embedding of class token"),
        ("vit_base_patch16_clip_224", "norm before the first block"),
    ],
)
def test_models_that_cannot_be_students_are_refused(name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Student(name, img_size=224)


def test_views_that_do_not_fit_the_patches_are_refused() -> None:
    with pytest.raises(
        UsageError, match="72 pixels are not cut evenly by its patches of 16; take views of 64 or 80 pixels"
    ):
        Student(NAME, img_size=72)


def test_patches_of_another_size_are_refused(student: Student) -> None:
    with pytest.raises(UsageError, match=r"16 x 16 x 3 = 768 values, found torch\.uint8 of 192"):
        student(torch.zeros(1, 2, 192, dtype=torch.uint8), torch.tensor([[0, 1]]))
    with pytest.raises(UsageError, match="expected uint8"):
        student(torch.zeros(1, 2, 768), torch.tensor([[0, 1]]))
