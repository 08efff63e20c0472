"""Every teacher of the table, and other kinds, against their library's own forward at true widths with random weights.

The reference is built by the library (only its image size and depth are ours) and run by its own ``forward``: hooks
take what its blocks give, and importance is made of the queries and keys that it hands to torch's attention, so
rotary positions, biases and norms of queries and keys are the library's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from library_teachers import (
    GRID,
    OTHER_KINDS,
    PATCH,
    VIEW,
    architectures,
    blocks_of,
    cut_teacher,
    library_model,
    random_views,
    randomised,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lookonce.extract.config import ExtractionConfig
from lookonce.extract.prepare import build_recipe, open_extraction
from lookonce.extract.teachers import Teacher, known_teachers, load_teacher, resolve_teacher
from lookonce.storage_schemas.manifest import validate_manifest
from lookonce.storage_schemas.recipe import Recipe


class SeenAttention(TorchFunctionMode):
    """Queries and keys of all calls of ``scaled_dot_product_attention``, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.calls.append((args[0], args[1]))
        return func(*args, **(kwargs or {}))


def own_forward(model: Any, pixels: Tensor) -> tuple[list[Tensor], Tensor, int]:
    """Outputs of all blocks as they are, importance, and how many tokens precede the patches."""
    outputs: list[Tensor] = []
    handles = [b.register_forward_hook(lambda _m, _i, out: outputs.append(out)) for b in blocks_of(model)]
    with torch.no_grad(), SeenAttention() as seen:
        model(pixels)
    for handle in handles:
        handle.remove()
    patches = GRID * GRID
    if hasattr(model, "transformer"):
        last: Any = blocks_of(model)[-1]
        entering = last.ln_1(outputs[-2])
        attention = last.attn(entering, entering, entering, need_weights=True, average_attn_weights=True)[1]
        return outputs, attention[:, 0, -patches:], 1
    pooled = getattr(model, "attn_pool", None) is not None
    assert len(seen.calls) == len(outputs) + pooled
    query, keys = seen.calls[-1]
    attention = (query @ keys.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1).mean(1)
    return outputs, attention[:, 0, -patches:], outputs[0].shape[1] - patches


def check(teacher: Teacher, model: Any) -> None:
    """All blocks and importance of a teacher that keeps all blocks equal those of its library."""
    views, spec = random_views(), teacher.spec
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    if teacher.input_size == VIEW:
        pixels = (views.permute(0, 3, 1, 2) / 255 - mean) / std
        torch.testing.assert_close(teacher.normalise_pixels(views), pixels)
    else:  # the resize is compared elsewhere
        pixels = teacher.normalise_pixels(views)
    outputs, importance, prefix = own_forward(model, pixels)
    assert teacher.block_count == len(outputs) == len(teacher.blocks)
    features = teacher.extract(views)
    for level, output in enumerate(outputs):
        patches = output[:, prefix:]
        first = output[:, :1] if teacher.has_class_token else patches.mean(1, keepdim=True)
        raw = torch.cat([first, patches], 1)
        wanted = torch.nn.functional.layer_norm(raw, raw.shape[-1:], eps=1e-5)
        torch.testing.assert_close(features.targets[:, :, level], wanted, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(features.mean[:, :, level], raw.mean(-1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(features.importance, importance, rtol=1e-3, atol=1e-7)
    assert importance.std() > 1e-5  # it tells patches apart
    whole = teacher.attention_pool and prefix == 0
    assert (importance.sum(1) > 1 - 1e-5).all() if whole else (importance.sum(1) < 1 - 1e-3).all()


@pytest.mark.parametrize("name", [*architectures(known_teachers()), *OTHER_KINDS])
def test_teacher_equals_its_library(name: str) -> None:
    spec = resolve_teacher(name)
    model = randomised(library_model(spec, depth=2))
    check(cut_teacher(spec, 2, model.state_dict()), model)


WHOLE = (
    "deit-tiny",
    "dino-s16",
    "dinov2-s14",
    "dinov2-reg-s14",
    "dinov3-s16",
    "timm:vit_small_patch16_rope_mixed_224",  # rotary positions that are learned, other ones in each block
)


def load_whole(name: str, folder: Path) -> tuple[Teacher, nn.Module]:
    """Everything from a file with the head in it, at full depth."""
    spec = resolve_teacher(name)
    model = randomised(library_model(spec, depth=None))
    file = folder / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)
    return load_teacher(spec, weights=file, view_size=VIEW, patch_size=PATCH, blocks="all"), model


@pytest.mark.parametrize("name", WHOLE)
def test_whole_teacher_from_a_file_equals_its_library(name: str, tmp_path: Path) -> None:
    check(*load_whole(name, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in known_teachers() if name not in WHOLE and not name.endswith(("g14", "h14", "so400m14"))]
)
def test_every_known_teacher_at_full_depth_equals_its_library(name: str, tmp_path: Path) -> None:
    check(*load_whole(name, tmp_path))


def test_a_siglip_checkpoint_of_open_clip_and_of_timm_give_the_same(tmp_path: Path) -> None:
    model = randomised(library_model(resolve_teacher("siglip2-b16"), depth=1))
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    text = {"text.transformer.resblocks.0.ln_1.weight": torch.ones(4), "logit_scale": torch.tensor(1.0)}
    save_file(state, tmp_path / "timm")
    save_file({**{f"visual.trunk.{name}": value for name, value in state.items()}, **text}, tmp_path / "open_clip")
    ours, theirs = (
        cut_teacher(resolve_teacher(name), 1, tmp_path / file)
        for name, file in (("siglip2-b16", "timm"), ("open_clip:ViT-B-16-SigLIP2/webli", "open_clip"))
    )
    assert ours.weights_digest == theirs.weights_digest
    assert torch.equal(ours.extract(random_views()).targets, theirs.extract(random_views()).targets)


def test_the_digest_is_of_what_decides_targets_and_importance() -> None:
    spec = resolve_teacher("siglip2-b16")
    model = randomised(library_model(spec, depth=1))
    before = cut_teacher(spec, 1, model.state_dict())
    for name in ("attn_pool.proj.weight", "attn_pool.mlp.fc1.bias", "attn_pool.norm.weight"):
        model.get_parameter(name).add_(1)
    same = cut_teacher(spec, 1, model.state_dict())
    assert same.weights_digest == before.weights_digest
    assert torch.equal(same.extract(random_views()).importance, before.extract(random_views()).importance)
    for name in ("attn_pool.latent", "attn_pool.q.bias", "norm.weight"):
        model.get_parameter(name)[..., ::2] += 1
        changed = cut_teacher(spec, 1, model.state_dict())
        assert changed.weights_digest != before.weights_digest
        assert not torch.equal(changed.extract(random_views()).importance, before.extract(random_views()).importance)
        before = changed


def test_the_recipe_says_what_token_0_and_importance_are(data_dir: Path, tmp_path: Path) -> None:
    images = next(folder for folder in sorted((data_dir / "flowers" / "test").iterdir()) if folder.is_dir())
    config = ExtractionConfig(teacher="siglip2-b16", images=str(images), out=tmp_path, view_size=VIEW)
    kinds = {}
    for name in ("siglip2-b16", "timm:vit_pe_core_tiny_patch16_384", "dinov3-s16"):
        spec = resolve_teacher(name)
        teacher = cut_teacher(spec, 1, library_model(spec, depth=1).state_dict())
        document = build_recipe(open_extraction(config), teacher).document()
        kinds[name] = (document["teacher"].get("first_token"), document["importance"])
    assert kinds == {
        "siglip2-b16": ("patch-mean", "attention-pool-head-mean"),
        "timm:vit_pe_core_tiny_patch16_384": (None, "attention-pool-head-mean"),
        "dinov3-s16": (None, "class-attention-last-block-head-mean"),
    }


def test_another_first_token_is_another_recipe_and_the_class_token_is_not_spelled_out(make_manifest: Any) -> None:
    manifest = make_manifest()
    recipe = manifest.recipe
    other = replace(recipe, teacher=replace(recipe.teacher, first_token="patch-mean"))
    assert Recipe.from_document(other.document()) == other
    assert other.fingerprint != recipe.fingerprint
    assert "first_token" not in recipe.document()["teacher"]
    document = replace(manifest, recipe=other).document()
    assert not validate_manifest(document)
    document["recipe"]["teacher"]["first_token"] = "class"
    assert any("first_token" in str(problem) for problem in validate_manifest(document))
