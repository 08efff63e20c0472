"""Every teacher of the table, and other kinds, against their library's own forward at true widths with random weights.

The reference is built by the library (only its image size and depth are ours) and run by its own ``forward``: hooks
take what its blocks give, and importance is made of the queries and keys that it hands to torch's attention, so
rotary positions, biases and norms of queries and keys are the library's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lookonce.extract.config import ExtractionConfig
from lookonce.extract.prepare import build_recipe, open_extraction
from lookonce.extract.teachers import Teacher, known_teachers, load_teacher, resolve_teacher
from lookonce.extract.teachers.spec import TeacherSpec
from lookonce.extract.teachers.table import adapter_of
from lookonce.extract.teachers.trunk import Trunk
from lookonce.extract.teachers.weights import architecture_of, fit_weights
from lookonce.storage_schemas.manifest import validate_manifest
from lookonce.storage_schemas.recipe import Recipe
from lookonce.weights.file import open_weights

GRID = 4
VIEW, PATCH = 16 * GRID, 16


class SeenAttention(TorchFunctionMode):
    """Queries and keys of all calls of ``scaled_dot_product_attention``, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.calls.append((args[0], args[1]))
        return func(*args, **(kwargs or {}))


def randomised(model: nn.Module) -> Any:
    """Every parameter off its initial value, so that none (layer scale, registers, biases, latents) has no effect."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.03)
    return model.requires_grad_(False).eval()


def random_views(count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, VIEW, VIEW, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def library_model(spec: TeacherSpec, depth: int | None) -> nn.Module:
    """The library's own image tower, random, for a grid of 4 x 4 patches; ``depth`` blocks where given."""
    size, architecture = GRID * spec.patch_size, spec.architecture
    options: dict[str, Any] = {}
    if spec.library == "open_clip":
        config: Any = open_clip.get_model_config(architecture)
        tower = config["vision_cfg"]
        if "timm_model_name" not in tower:
            layers = {} if depth is None else {"layers": depth}
            settings = CLIPVisionCfg(**{**tower, "image_size": size, **layers})
            built: nn.Module = _build_vision_tower(config["embed_dim"], settings, quick_gelu=spec.quick_gelu)
            return built
        architecture, options = tower["timm_model_name"], {"global_pool": tower["timm_pool"]}
    if depth is not None:
        options["depth"] = depth
    model: nn.Module = timm.create_model(architecture, img_size=size, **options)
    return model


def blocks_of(model: Any) -> nn.Sequential:
    blocks: nn.Sequential = model.transformer.resblocks if hasattr(model, "transformer") else model.blocks
    return blocks


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
    features = teacher.look(views)
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


def cut_teacher(spec: TeacherSpec, depth: int, weights: Mapping[str, Tensor] | Path) -> Teacher:
    """The adapter's trunk at its true architecture, of which the first blocks are kept, with a model's parameters."""
    size = spec.input_size(VIEW, PATCH)
    trunk: Trunk = adapter_of(spec.library).build_trunk(spec, size)
    del blocks_of(trunk.model)[depth:]
    trunk.block_count = depth
    if isinstance(weights, Path):
        weights = open_weights(weights).fitting(architecture_of(trunk, spec.name)).state
    state = {key: value.clone() for key, value in weights.items()}
    digest = fit_weights(trunk, state, name=spec.name, origin="the test")
    blocks = tuple(range(1, depth + 1))
    return Teacher(spec, trunk, blocks=blocks, view_size=VIEW, input_size=size, weights_digest=digest)


def architectures(names: tuple[str, ...]) -> list[Any]:
    """One of the names for each architecture; those that are wide are slow."""
    one: dict[str, str] = {}
    for name in names:
        spec = resolve_teacher(name)
        one.setdefault(f"{spec.library}:{spec.architecture}", name)
    wide = ("l14", "l16", "h14", "g14", "336", "so400m14")
    return [pytest.param(n, marks=[pytest.mark.slow] if n.endswith(wide) else []) for n in one.values()]


OTHER_KINDS = (
    "timm:deit_tiny_distilled_patch16_224",  # a second class token, which is dropped like a register
    "timm:eva02_tiny_patch14_224",  # queries, keys and values apart; norm in SwiGLU
    "timm:vit_pe_core_tiny_patch16_384",  # class token and attention pooling, which attends to the class token too
    "timm:vit_small_patch16_rope_224",
    "timm:vit_small_patch16_rope_ape_224",
    "timm:vit_small_patch16_dinov3_qkvb",
    "timm:deit3_small_patch16_224",
    "open_clip:ViT-B-16-SigLIP2/webli",
)


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
    assert torch.equal(ours.look(random_views()).targets, theirs.look(random_views()).targets)


def test_the_digest_is_of_what_decides_targets_and_importance() -> None:
    spec = resolve_teacher("siglip2-b16")
    model = randomised(library_model(spec, depth=1))
    before = cut_teacher(spec, 1, model.state_dict())
    for name in ("attn_pool.proj.weight", "attn_pool.mlp.fc1.bias", "attn_pool.norm.weight"):
        model.get_parameter(name).add_(1)
    same = cut_teacher(spec, 1, model.state_dict())
    assert same.weights_digest == before.weights_digest
    assert torch.equal(same.look(random_views()).importance, before.look(random_views()).importance)
    for name in ("attn_pool.latent", "attn_pool.q.bias", "norm.weight"):
        model.get_parameter(name)[..., ::2] += 1
        changed = cut_teacher(spec, 1, model.state_dict())
        assert changed.weights_digest != before.weights_digest
        assert not torch.equal(changed.look(random_views()).importance, before.look(random_views()).importance)
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
