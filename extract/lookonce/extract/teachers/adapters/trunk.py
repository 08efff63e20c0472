"""The interface of a vision transformer for the teacher: patches in, blocks one by one, no head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ACTIVATIONS = frozenset({"GELU", "GELUTanh", "QuickGELU", "SiLU", "Swish", "ReLU", "Mish"})
"""Classes of activations in torch, timm and open_clip."""


@dataclass(frozen=True, kw_only=True)
class PositionEmbedding:
    """The position embedding among the parameters of a trunk."""

    parameter: str
    """Parameter name; its shape is (..., prefix + patches, channels)."""
    prefix: int
    """Rows before those of the patches (class token, registers); never interpolated."""


class Trunk(nn.Module, ABC):
    """A vision transformer without projection and head; with final norm and pooling only if importance needs them.

    Attributes:
        model: the library's module, with the parameters of the trunk and no others.
        block_count: number of blocks, T.
        width: channels of a token.
        patch_count: patches of an input image, N.
        prefix_tokens: number of tokens before the patches: the class token, if there is one, then registers.
        has_class_token: whether there is a class token.
        attention_pool: whether the model pools its patches by attention of a learned query. Then importance is this
            attention; otherwise it is the attention of the class token in the last block.
        position_embedding: its position embedding, or None.
        attention_scale: factor of the dot products of that attention.
        ignored_prefixes: prefixes of parameters in files that the trunk does not need (heads, decoder).
    """

    model: nn.Module
    block_count: int
    width: int
    patch_count: int
    prefix_tokens: int
    position_embedding: PositionEmbedding | None
    has_class_token: bool
    attention_pool: bool
    attention_scale: float
    ignored_prefixes: tuple[str, ...]

    @abstractmethod
    def embed(self, pixels: Tensor) -> Tensor:
        """Tokens that enter block 1: (B, 3, H, W) normalised float -> (B, prefix_tokens + N, width)."""

    @abstractmethod
    def run_block(self, index: int, tokens: Tensor) -> Tensor:
        """Output of the library's own block ``index`` (0-based), same shape as ``tokens``."""

    @abstractmethod
    def query_and_keys(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The query whose attention is importance, and the keys that it attends to.

        Args:
            tokens: (B, prefix_tokens + N, width): input of the last block, or its output with attention pooling.

        Returns:
            The query (B or 1, heads, 1, head_dim), and keys (B, heads, prefix + N, head_dim) with any prefix, then the
            patches.
        """

    @property
    def activation(self) -> str:
        """Name of the activation in the blocks, such as GELU or QuickGELU."""
        names = (type(module).__name__ for module in self.model.modules())
        return next((name for name in names if name in ACTIVATIONS), "of timm's own")

    def compute_buffers(self) -> None:
        """Compute buffers that files do not contain (tables of positions); called after the parameters are loaded."""

    def cast_blocks(self, dtype: torch.dtype) -> None:
        """Store the matrices of the blocks in ``dtype``, so that autocast does not cast them for every batch.

        Norms and the residual stream stay in float32, as with autocast.
        """
        for module in self.model.modules():
            if isinstance(module, nn.Linear | nn.MultiheadAttention):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(dtype)


def split_heads(projected: Tensor, heads: int) -> Tensor:
    """(B, tokens, heads * head_dim) -> (B, heads, tokens, head_dim), a view."""
    batch, tokens, _ = projected.shape
    return projected.view(batch, tokens, heads, -1).transpose(1, 2)
