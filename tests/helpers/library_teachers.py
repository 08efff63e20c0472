"""Teachers of any architecture with random weights, built by their libraries: small image, few blocks, true width."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from torch import Tensor, nn

from lookonce.extract.teachers import Teacher, resolve_teacher
from lookonce.extract.teachers.adapters.trunk import Trunk
from lookonce.extract.teachers.spec import TeacherSpec
from lookonce.extract.teachers.table import adapter_of
from lookonce.extract.teachers.teacher import Precision
from lookonce.extract.teachers.weights import architecture_of, fit_weights
from lookonce.weights.file import open_weights

GRID = 4
VIEW, PATCH = 16 * GRID, 16


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


def cut_teacher(
    spec: TeacherSpec, depth: int, weights: Mapping[str, Tensor] | Path, precision: Precision = "fp32"
) -> Teacher:
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
    return Teacher(
        spec, trunk, blocks=blocks, view_size=VIEW, input_size=size, weights_digest=digest, precision=precision
    )


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
