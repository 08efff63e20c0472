"""timm's vision transformers as teachers."""

from __future__ import annotations

import difflib
import re
from typing import Any

import timm
import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from lookonce.extract.teachers.silence import silent_library
from lookonce.extract.teachers.spec import TeacherSpec, rgb
from lookonce.extract.teachers.trunk import PositionEmbedding, Trunk, split_heads
from lookonce.shared.errors import TeacherError, UsageError


class TimmTrunk(Trunk):
    """A ``timm.models.vision_transformer.VisionTransformer``, cut behind its last block."""

    not_of_the_trunk = (
        "norm.",
        "fc_norm.",
        "head.",
        "head_dist.",
        "pre_logits.",
        "attn_pool.",
        "mask_token",
        "decoder",
    )

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        if not isinstance(model, VisionTransformer):
            raise TeacherError(f"{name} cannot teach: it is a {type(model).__name__}, not a timm VisionTransformer")
        last = model.blocks[-1]
        if type(last) is not Block or type(last.attn) is not Attention:
            raise TeacherError(
                f"{name} cannot teach: its blocks are {type(last).__name__} with {type(last.attn).__name__}, and the "
                "class token's attention is only known for timm's Block with Attention"
            )
        if not model.has_class_token:
            raise TeacherError(f"{name} cannot teach: it has no class token, and importance is what that attends to")
        headless: Any = model
        headless.norm, headless.fc_norm, headless.attn_pool = nn.Identity(), nn.Identity(), None
        headless.head_drop, headless.head, headless.head_dist = nn.Identity(), nn.Identity(), None
        self.model = model
        self.block_count = len(model.blocks)
        self.width = model.embed_dim
        self.patch_count = model.patch_embed.num_patches
        self.prefix_tokens = model.num_prefix_tokens
        self.attention_scale = last.attn.scale
        self.position_embedding = None
        if model.pos_embed is not None:
            prefix = 0 if model.no_embed_class else model.num_prefix_tokens
            self.position_embedding = PositionEmbedding(parameter="pos_embed", prefix=prefix)

    def embed(self, pixels: Tensor) -> Tensor:  # noqa: D102 - see Trunk
        model: Any = self.model
        tokens: Tensor = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(pixels))))
        return tokens

    def run_block(self, index: int, tokens: Tensor) -> Tensor:  # noqa: D102 - see Trunk
        blocks: Any = self.model.blocks
        out: Tensor = blocks[index](tokens)
        return out

    def last_query_and_keys(self, tokens: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102 - see Trunk
        blocks: Any = self.model.blocks
        attention = blocks[-1].attn
        normed = blocks[-1].norm1(tokens)
        heads, size = attention.num_heads, attention.attn_dim
        weight, bias = attention.qkv.weight, attention.qkv.bias
        query = functional.linear(normed[:, :1], weight[:size], None if bias is None else bias[:size])
        keys = functional.linear(normed, weight[size : 2 * size], None if bias is None else bias[size : 2 * size])
        query = split_heads(query, heads)
        keys = split_heads(keys, heads)
        return attention.q_norm(query), attention.k_norm(keys)


def describe(name: str) -> TeacherSpec:
    """Spec of timm's ``NAME[.TAG]``.

    Raises:
        UsageError: timm has no such model or tag (the message lists close ones).
        TeacherError: the model's name tells no patch size, so it is no plain vision transformer.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=5, cutoff=0.5)
        raise UsageError(f"timm has no model '{architecture}'; close names are {', '.join(close) or 'none'}")
    default: Any = timm.models.get_pretrained_cfg(architecture)
    try:
        config: Any = timm.models.get_pretrained_cfg(f"{architecture}.{tag}") if tag else default
    except RuntimeError as error:
        known = [full.partition(".")[2] for full in timm.list_models(f"{architecture}.*", pretrained=True)]
        raise UsageError(
            f"timm's {architecture} has no weights '{tag}'; it has {', '.join(known) or 'none'}"
        ) from error
    if "QuickGELU" in str(getattr(config, "notes", "")) and "_clip_quickgelu" not in architecture:
        # Weights trained with QuickGELU give other features under GELU: take the architecture that has it.
        quick = architecture.replace("_clip", "_clip_quickgelu", 1)
        if timm.is_model(quick):
            return describe(f"{quick}.{tag or config.tag}")
    patch_size = _patch_size(architecture)
    default_tag = default.tag if default is not None else ""
    tag = tag or default_tag or ""
    return TeacherSpec(
        name=f"timm:{architecture}" + ("" if tag == default_tag else f".{tag}"),
        library="timm",
        architecture=architecture,
        tag=tag,
        patch_size=patch_size,
        mean=rgb(config.mean) if config is not None else (0.5, 0.5, 0.5),
        std=rgb(config.std) if config is not None else (0.5, 0.5, 0.5),
        quick_gelu="quickgelu" in architecture,
    )


def _patch_size(architecture: str) -> int:
    """Side of a patch in pixels: from the name, or, where the name does not tell (test_vit), from the model itself."""
    if match := re.search(r"patch(\d+)", architecture):
        return int(match[1])
    with silent_library(), torch.device("meta"):
        model = timm.create_model(architecture, pretrained=False)
    if not isinstance(model, VisionTransformer):
        raise TeacherError(f"timm:{architecture} cannot teach: it is a {type(model).__name__}, not a VisionTransformer")
    size: int = model.patch_embed.patch_size[0]
    return size


def build_trunk(spec: TeacherSpec, input_size: int) -> TimmTrunk:
    """The architecture for square inputs of ``input_size`` pixels, on the meta device: it has no weights yet."""
    try:
        with silent_library(), torch.device("meta"):
            model = timm.create_model(spec.architecture, pretrained=False, img_size=input_size, num_classes=0)
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        raise TeacherError(f"{spec.name} cannot teach: timm does not build it for {input_size} px ({error})") from error
    return TimmTrunk(model, spec.name)


def pretrained_state(spec: TeacherSpec) -> dict[str, Tensor]:
    """Parameters of the pretrained model at its own input size, from the hub or its cache; raises as timm does."""
    with silent_library():
        model = timm.create_model(f"{spec.architecture}.{spec.tag}", pretrained=True, num_classes=0)
    state: dict[str, Tensor] = model.state_dict()
    return state


def weights_home(spec: TeacherSpec) -> str:
    """Where the weights can be had, in words; empty when timm knows of none."""
    return f"the hub repository timm/{spec.architecture}.{spec.tag}" if spec.tag else ""
