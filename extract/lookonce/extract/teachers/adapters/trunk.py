"""What an adapter makes of a library's vision transformer: patches in, blocks one by one, no head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ACTIVATIONS = frozenset({"GELU", "GELUTanh", "QuickGELU", "SiLU", "Swish", "ReLU", "Mish"})
"""Classes of torch, timm and open_clip."""


@dataclass(frozen=True, kw_only=True)
class PositionEmbedding:
    """Where the position embedding is among the trunk's parameters, and what it holds."""

    parameter: str
    """Parameter name; its shape is (..., prefix + patches, channels)."""
    prefix: int
    """Rows before the patches' own (class token, registers); never interpolated."""


class Trunk(nn.Module, ABC):
    """A vision transformer without projection and head; final norm and pooling are there if importance needs them.

    Attributes:
        model: the library's module; it holds the trunk's parameters and nothing else.
        block_count: number of blocks, T.
        width: channels of a token.
        patch_count: patches of an input image, N.
        prefix_tokens: tokens before the patches: the class token, first, if there is one, then registers.
        has_class_token: whether there is one.
        attention_pool: whether the model pools its patches by attention of a learned query; that is importance then,
            and otherwise it is the attention of the class token in the last block.
        position_embedding: where to find it, or None.
        attention_scale: what the dot products of that attention are multiplied by.
        not_of_the_trunk: beginnings of names that files hold beside the trunk's parameters (heads, decoder); ignored.
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
    not_of_the_trunk: tuple[str, ...]

    @abstractmethod
    def embed(self, pixels: Tensor) -> Tensor:
        """Tokens that enter block 1: (B, 3, H, W) normalised float -> (B, prefix_tokens + N, width)."""

    @abstractmethod
    def run_block(self, index: int, tokens: Tensor) -> Tensor:
        """Output of the library's own block ``index`` (0-based), same shape as ``tokens``."""

    @abstractmethod
    def query_and_keys(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The one query (B or 1, heads, 1, head_dim) whose attention is importance, and all keys that it meets.

        Args:
            tokens: (B, prefix_tokens + N, width): what enters the last block; with attention pooling what leaves it.

        Returns:
            The query, and keys (B, heads, any prefix + N, head_dim) with the patches' last.
        """

    @property
    def activation(self) -> str:
        """Name of the non-linearity of the blocks, such as GELU or QuickGELU."""
        names = (type(module).__name__ for module in self.model.modules())
        return next((name for name in names if name in ACTIVATIONS), "of timm's own")

    def compute_buffers(self) -> None:
        """Compute what no file holds (tables of positions); called when the parameters are in."""

    def cast_blocks(self, dtype: torch.dtype) -> None:
        """Keep the matrices of the blocks in ``dtype``.

        Autocast would cast them anew for every batch; norms and the residual stream stay in float32 as it wants.
        """
        for module in self.model.modules():
            if isinstance(module, nn.Linear | nn.MultiheadAttention):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(dtype)


def split_heads(projected: Tensor, heads: int) -> Tensor:
    """(B, tokens, heads * head_dim) -> (B, heads, tokens, head_dim), a view."""
    batch, tokens, _ = projected.shape
    return projected.view(batch, tokens, heads, -1).transpose(1, 2)
