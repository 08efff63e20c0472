"""Trunks of timm's two classes of plain vision transformers, without the layers after importance."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.attention import Attention, AttentionRope
from timm.layers.attention_pool import AttentionPoolLatent
from timm.models._manipulate import reinit_non_persistent_buffers
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from lookonce.extract.teachers.adapters.timm_attention import class_query_and_keys, pool_query_and_keys
from lookonce.extract.teachers.adapters.trunk import PositionEmbedding, Trunk
from lookonce.extract.teachers.spec import SUPPORTED_TEACHERS
from lookonce.shared.errors import TeacherError

LAST_BLOCKS = {
    (Block, Attention),
    (EvaBlock, EvaAttention),
    (EvaBlock, AttentionRope),
    (EvaBlockPostNorm, EvaAttention),
    (EvaBlockPostNorm, AttentionRope),
}
"""(block, attention) classes of last blocks for which the attention of the class token is implemented."""

HEADS = ("fc_norm.", "head.", "head_dist.", "pre_logits.", "mask_token", "decoder", "lm_head.", "rope.")
"""Prefixes of parameters in files that a trunk does not need; ``rope.`` are tables that timm computes itself."""


class TimmTrunk(Trunk):
    """A ``timm.models.vision_transformer.VisionTransformer``."""

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        self.model = model
        self.block_count = len(model.blocks)
        self.width = model.embed_dim
        self.patch_count = model.patch_embed.num_patches
        self.prefix_tokens = model.num_prefix_tokens
        self.has_class_token = model.cls_token is not None
        self.attention_pool = type(model.attn_pool) is AttentionPoolLatent
        self._require_supported(name)
        self.attention_scale = (model.attn_pool if self.attention_pool else model.blocks[-1].attn).scale
        self.position_embedding = None
        if model.pos_embed is not None:
            prefix = 0 if model.no_embed_class else model.num_prefix_tokens
            self.position_embedding = PositionEmbedding(parameter="pos_embed", prefix=prefix)
        self._remove_head(model)

    def _require_supported(self, name: str) -> None:
        if self.attention_pool:
            return
        if not self.has_class_token:
            raise TeacherError(
                f"{name} is not a supported teacher: it has neither a class token nor attention pooling, and "
                f"importance is the attention of one of them; {SUPPORTED_TEACHERS}"
            )
        blocks: Any = self.model.blocks
        block, attention = type(blocks[-1]), type(getattr(blocks[-1], "attn", None))
        if (block, attention) not in LAST_BLOCKS:
            raise TeacherError(
                f"{name} is not a supported teacher: its blocks are {block.__name__} with {attention.__name__}, for "
                f"which the attention of the class token is not implemented; {SUPPORTED_TEACHERS}"
            )

    def _remove_head(self, model: Any) -> None:
        """Remove what targets and importance do not need: the head, and without attention pooling the final norm."""
        model.fc_norm, model.head_drop, model.head = nn.Identity(), nn.Identity(), nn.Identity()
        model.head_dist = None
        if self.attention_pool:
            pool = model.attn_pool
            pool.proj, pool.norm, pool.mlp = nn.Identity(), nn.Identity(), None
            self.ignored_prefixes = (*HEADS, "attn_pool.proj.", "attn_pool.norm.", "attn_pool.mlp.")
        else:
            model.norm, model.attn_pool = nn.Identity(), None
            self.ignored_prefixes = (*HEADS, "norm.", "attn_pool.")

    def embed(self, pixels: Tensor) -> Tensor:  # noqa: D102 - see Trunk
        model: Any = self.model
        tokens: Tensor = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(pixels))))
        return tokens

    def run_block(self, index: int, tokens: Tensor) -> Tensor:  # noqa: D102 - see Trunk
        blocks: Any = self.model.blocks
        out: Tensor = blocks[index](tokens)
        return out

    def query_and_keys(self, tokens: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102 - see Trunk
        model: Any = self.model
        if self.attention_pool:
            pooled = model.norm(tokens)
            return pool_query_and_keys(model.attn_pool, pooled[:, 0 if self._pools_prefix() else self.prefix_tokens :])
        last = model.blocks[-1]
        normed = tokens if type(last) is EvaBlockPostNorm else last.norm1(tokens)
        return class_query_and_keys(last.attn, normed, self._rotation(len(model.blocks) - 1))

    def compute_buffers(self) -> None:  # noqa: D102 - see Trunk
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_meta:
                    setattr(module, name, torch.empty_like(buffer, device="cpu"))
        reinit_non_persistent_buffers(self.model)

    def _pools_prefix(self) -> bool:
        return bool(self.model.pool_include_prefix)

    def _rotation(self, index: int) -> Tensor | None:
        return None


class EvaTrunk(TimmTrunk):
    """A ``timm.models.eva.Eva``: EVA-02, DINOv3, Perception Encoder and others, most with rotary positions."""

    def embed(self, pixels: Tensor) -> Tensor:  # noqa: D102 - see Trunk
        model: Any = self.model
        tokens: Tensor = model.norm_pre(model._pos_embed(model.patch_embed(pixels))[0])
        return tokens

    def run_block(self, index: int, tokens: Tensor) -> Tensor:  # noqa: D102 - see Trunk
        blocks: Any = self.model.blocks
        out: Tensor = blocks[index](tokens, rope=self._rotation(index))
        return out

    def _pools_prefix(self) -> bool:
        return True

    def _rotation(self, index: int) -> Tensor | None:
        model: Any = self.model
        if model.rope is None:
            return None
        shape = None if hasattr(model.rope, "feat_shape") else model.patch_embed.grid_size
        rotation: Tensor = model.rope.get_embed() if shape is None else model.rope.get_embed(shape)
        return rotation[index] if model.rope_mixed else rotation


def make_trunk(model: nn.Module, name: str) -> TimmTrunk:
    """The trunk of a timm model.

    Raises:
        TeacherError: the model is not a supported vision transformer.
    """
    if isinstance(model, Eva):
        return EvaTrunk(model, name)
    if isinstance(model, VisionTransformer):
        return TimmTrunk(model, name)
    raise TeacherError(f"{name} is not a supported teacher: it is a {type(model).__name__}; {SUPPORTED_TEACHERS}")
