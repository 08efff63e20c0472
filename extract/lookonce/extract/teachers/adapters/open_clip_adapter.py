"""open_clip's vision transformers as teachers. Imports open_clip: use it through ``table.adapter_of`` only."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.model import (
    CLIPVisionCfg,
    _build_vision_tower,  # pyright: ignore[reportPrivateUsage] - open_clip builds no image tower alone in public
)
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from lookonce.extract.teachers.adapters import timm_adapter
from lookonce.extract.teachers.adapters.silence import suppress_library_output
from lookonce.extract.teachers.adapters.trunk import PositionEmbedding, Trunk, split_heads
from lookonce.extract.teachers.hub import fetch_first
from lookonce.extract.teachers.spec import SUPPORTED_TEACHERS, TeacherSpec, rgb
from lookonce.shared.errors import TeacherError, UsageError
from lookonce.shared.names import close_names, did_you_mean


@contextmanager
def fused_attention() -> Generator[None, None, None]:
    """Disable the inference path of ``nn.MultiheadAttention``, which materialises the N x N attention on a CPU.

    Without it, the layer calls ``scaled_dot_product_attention`` with its fused kernels.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


class OpenClipTrunk(Trunk):
    """An ``open_clip.transformer.VisionTransformer`` without the layers after its last block."""

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        if not isinstance(model, VisionTransformer):
            raise TeacherError(
                f"{name} is not a supported teacher: its image tower is a {type(model).__name__}; {SUPPORTED_TEACHERS}"
            )
        last = model.transformer.resblocks[-1]
        if type(last) is not ResidualAttentionBlock:
            raise TeacherError(
                f"{name} is not a supported teacher: its blocks are {type(last).__name__}, for which the attention of "
                f"the class token is not implemented; {SUPPORTED_TEACHERS}"
            )
        model.ln_post, model.proj, model.attn_pool = nn.Identity(), None, None
        model.attn_pool_contrastive = None
        self.model = model
        self.block_count = len(model.transformer.resblocks)
        self.width = model.conv1.out_channels
        self.patch_count = model.grid_size[0] * model.grid_size[1]
        self.prefix_tokens = 1
        self.has_class_token, self.attention_pool = True, False
        self.ignored_prefixes = ("ln_post.", "proj", "attn_pool")
        self.position_embedding = PositionEmbedding(parameter="positional_embedding", prefix=1)
        self.attention_scale = last.attn.head_dim**-0.5

    def embed(self, pixels: Tensor) -> Tensor:  # noqa: D102 - see Trunk
        model: Any = self.model
        tokens: Tensor = model._embeds(pixels)
        return tokens

    def run_block(self, index: int, tokens: Tensor) -> Tensor:  # noqa: D102 - see Trunk
        transformer: Any = self.model.transformer
        with fused_attention():
            out: Tensor = transformer.resblocks[index](tokens)
        return out

    def query_and_keys(self, tokens: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102 - see Trunk
        transformer: Any = self.model.transformer
        block = transformer.resblocks[-1]
        attention = block.attn
        normed = block.ln_1(tokens)
        size = attention.embed_dim
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        query = functional.linear(normed[:, :1], weight[:size], bias[:size])
        keys = functional.linear(normed, weight[size : 2 * size], bias[size : 2 * size])
        query = split_heads(query, attention.num_heads)
        keys = split_heads(keys, attention.num_heads)
        return query, keys


def describe(name: str) -> TeacherSpec:
    """Spec of open_clip's ``ARCH[/TAG]``, with ``-quickgelu`` added to ARCH if the weights of the tag need it.

    Raises:
        UsageError: open_clip has no such architecture or tag (the message lists similar names, or its tags).
        TeacherError: the image tower is not a vision transformer.
    """
    architecture, _, tag = name.partition("/")
    config = open_clip.get_model_config(architecture)
    if config is None:
        close = close_names(architecture, open_clip.list_models(), most=5)
        raise UsageError(f"teacher: open_clip has no model '{architecture}'{did_you_mean(close)}")
    weights: dict[str, Any] = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    if tag and not weights:
        known = open_clip.list_pretrained_tags_by_model(architecture)
        raise UsageError(f"open_clip's {architecture} has no weights '{tag}'; it has {', '.join(known) or 'none'}")
    if weights.get("quick_gelu") and open_clip.get_model_config(f"{architecture}-quickgelu") is not None:
        architecture = f"{architecture}-quickgelu"
    tower = config["vision_cfg"]
    if not isinstance(tower.get("layers", 12), int):
        raise TeacherError(
            f"open_clip:{architecture} is not a supported teacher: its image tower is a ResNet; {SUPPORTED_TEACHERS}"
        )
    inner = timm_adapter.describe(tower["timm_model_name"]) if "timm_model_name" in tower else None
    return TeacherSpec(
        name=f"open_clip:{architecture}" + (f"/{tag}" if tag else ""),
        library="open_clip",
        architecture=architecture,
        tag=tag,
        patch_size=inner.patch_size if inner else int(tower.get("patch_size", 16)),
        mean=rgb(weights.get("mean") or (inner.mean if inner else open_clip.OPENAI_DATASET_MEAN)),
        std=rgb(weights.get("std") or (inner.std if inner else open_clip.OPENAI_DATASET_STD)),
        quick_gelu=not inner and bool(weights.get("quick_gelu") or config.get("quick_gelu")),
    )


def build_trunk(spec: TeacherSpec, input_size: int) -> Trunk:
    """The image tower for square inputs of ``input_size`` pixels, on the meta device, without weights.

    Raises:
        TeacherError: the model is not a supported vision transformer, or does not exist in that size.
    """
    config: Any = open_clip.get_model_config(spec.architecture)
    tower = config["vision_cfg"]
    if "timm_model_name" in tower:
        pool = {"global_pool": tower["timm_pool"]} if tower.get("timm_pool") else {}
        return timm_adapter.build_timm_trunk(tower["timm_model_name"], input_size, spec.name, **pool)
    options: dict[str, Any] = {**tower, "image_size": input_size, "patch_dropout": 0.0}
    settings = CLIPVisionCfg(**options)
    with suppress_library_output(), torch.device("meta"):
        model = _build_vision_tower(config["embed_dim"], settings, quick_gelu=spec.quick_gelu)
    return OpenClipTrunk(model, spec.name)


def pretrained_state(spec: TeacherSpec) -> dict[str, Tensor]:
    """Parameters of the pretrained tower at its default size, from the hub or its cache; raises open_clip's errors."""
    repository, files = hub_files(spec)
    with suppress_library_output():
        if repository:
            fetch_first(repository, files)  # open_clip hides the reason of a failed download
        model: Any = open_clip.create_model(spec.architecture, pretrained=spec.tag, require_pretrained=True)
    state: dict[str, Tensor] = getattr(model.visual, "trunk", model.visual).state_dict()
    return state


def hub_files(spec: TeacherSpec) -> tuple[str, tuple[str, ...]]:
    """The hub repository of the weights, and their file names there; empty for weights from other places.

    The names have the order in which open_clip tries them.
    """
    weights = open_clip.get_pretrained_cfg(spec.architecture, spec.tag) if spec.tag else {}
    repository, _, file = str(weights.get("hf_hub") or "").rpartition("/")
    file = file or HF_WEIGHTS_NAME
    safe = HF_SAFE_WEIGHTS_NAME if file == HF_WEIGHTS_NAME else str(Path(file).with_suffix(".safetensors"))
    return repository, (safe, file) if file.endswith((".bin", ".pth")) else (file,)


def weights_origin(spec: TeacherSpec) -> str:
    """Origin of the weights, in words; empty if open_clip has no weights."""
    if not spec.tag:
        return ""
    weights = open_clip.get_pretrained_cfg(spec.architecture, spec.tag)
    hub = str(weights.get("hf_hub") or "").rstrip("/")
    return f"the hub repository {hub}" if hub else str(weights.get("url") or f"open_clip's tag {spec.tag}")


def activation_notes(spec: TeacherSpec) -> list[str]:
    """A note about the architecture with the other GELU, which loads the same files; empty if there is none."""
    quick = "-quickgelu"
    if spec.architecture.endswith(quick):
        twin, this, other = spec.architecture.removesuffix(quick), "QuickGELU", "GELU"
    else:
        twin, this, other = spec.architecture + quick, "GELU", "QuickGELU (OpenAI's CLIP, DFN, MetaCLIP)"
    if open_clip.get_model_config(twin) is None:
        return []
    return [timm_adapter.twin_note(spec.name, this, f"open_clip:{twin}", other)]
