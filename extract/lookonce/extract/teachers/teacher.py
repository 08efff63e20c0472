"""The frozen teacher: uint8 views in, targets and importance out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lookonce.extract.teachers.adapters.trunk import Trunk
from lookonce.extract.teachers.spec import TeacherSpec
from lookonce.extract.teachers.targets import normalise_targets, patch_attention

Precision = Literal["fp32", "bf16", "fp16"]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class TeacherOutput:
    """Raw outputs of the selected blocks, and importance, of a batch of B views with N patches."""

    hidden: list[Tensor]
    """L tensors (B, 1 + N, C), before any final norm; token 0 is the class token, or the mean of the patch tokens if
    the teacher has no class token."""
    importance: Tensor
    """(B, N) float32: attention of the class token in the last block, or of the query of the attention pool if there is
    one, averaged over heads."""


@dataclass(frozen=True, kw_only=True)
class TeacherFeatures:
    """Features of a batch as the cache stores them, token-major, float32."""

    targets: Tensor
    """(B, 1 + N, L, C): block outputs, LayerNormed per token without affine."""
    mean: Tensor
    """(B, 1 + N, L): the mean that LayerNorm subtracts."""
    std: Tensor
    """(B, 1 + N, L): sqrt(variance + 1e-5), the divisor of LayerNorm."""
    importance: Tensor
    """(B, N)."""


class Teacher(nn.Module):
    """A frozen vision trunk for uint8 views.

    Attributes:
        spec: its specification.
        block_count: number of all blocks, T.
        blocks: 1-based numbers of the selected blocks, ascending.
        width: channels of a token, C.
        patches, tokens: N and 1 + N, without registers, which are dropped.
        has_class_token, attention_pool: decide token 0 and importance, see ``TeacherOutput``.
        view_size, input_size: side of the views and of the trunk's input, pixels.
        precision: of the arithmetic of the blocks; embedding, residual stream, norms and everything after are float32.
            On a GPU, fp32 turns TF32 convolutions off in this process; half precision embeds patches in TF32.
        weights_digest: identifies the weights (see ``weights.weights_digest``).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        spec: TeacherSpec,
        trunk: Trunk,
        *,
        blocks: tuple[int, ...],
        view_size: int,
        input_size: int,
        weights_digest: str,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__()
        self.spec, self.blocks, self.precision = spec, blocks, precision
        self.view_size, self.input_size, self.weights_digest = view_size, input_size, weights_digest
        self.block_count, self.width = trunk.block_count, trunk.width
        self.patches, self.tokens = trunk.patch_count, trunk.patch_count + 1
        self.has_class_token, self.attention_pool = trunk.has_class_token, trunk.attention_pool
        if precision != "fp32":
            trunk.cast_blocks(HALF[precision])
        self.trunk = trunk
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()
        self._forward: Callable[[Tensor], TeacherOutput] = self.forward_normalised

    def forward(self, views: Tensor) -> TeacherOutput:
        """Raw block outputs and importance of views.

        Args:
            views: (B, view_size, view_size, 3) uint8 RGB, on any device.
        """
        if self.precision == "fp32" and self.mean.is_cuda:
            torch.backends.cudnn.allow_tf32 = (
                False  # torch's default is TF32 for convolutions, including the patch embedding
            )
        return self._forward(self.normalise_pixels(views))

    def compile_forward(self) -> None:
        """Run ``forward`` compiled by ``torch.compile`` from the next batch on; features differ by rounding."""
        self._forward = torch.compile(self.forward_normalised)

    def run_eagerly(self) -> None:
        """Undo ``compile_forward``."""
        self._forward = self.forward_normalised

    def normalise_pixels(self, views: Tensor) -> Tensor:
        """The input of the trunk: (B, 3, input_size, input_size) float32.

        Views of another size are resized bicubically (MaskAlign, CLIP-L/14), without antialiasing or clipping.
        """
        size = self.view_size
        if views.dtype != torch.uint8 or views.shape[1:] != (size, size, 3):
            raise ValueError(f"views must be uint8 (B, {size}, {size}, 3), not {views.dtype} {tuple(views.shape)}")
        pixels = views.to(self.mean.device).permute(0, 3, 1, 2).float().div_(255)
        if self.input_size != size:
            pixels = functional.interpolate(pixels, size=(self.input_size,) * 2, mode="bicubic", align_corners=False)
        return (pixels - self.mean) / self.std

    def forward_normalised(self, pixels: Tensor) -> TeacherOutput:
        """Block outputs and importance of resized and normalised pixels, (B, 3, input_size, input_size) float32."""
        trunk, hidden = self.trunk, []
        tokens = trunk.embed(pixels)
        with self._autocast():
            for number in range(1, trunk.block_count):
                tokens = trunk.run_block(number - 1, tokens)
                if number in self.blocks:
                    hidden.append(self._stored_tokens(tokens))
            last_input = tokens
            if trunk.attention_pool or trunk.block_count in self.blocks:
                tokens = trunk.run_block(trunk.block_count - 1, tokens)
                if trunk.block_count in self.blocks:
                    hidden.append(self._stored_tokens(tokens))
            query, keys = trunk.query_and_keys(tokens if trunk.attention_pool else last_input)
        importance = patch_attention(query, keys, trunk.attention_scale, trunk.patch_count)
        return TeacherOutput(hidden=hidden, importance=importance)

    @torch.inference_mode()
    def extract(self, views: Tensor) -> TeacherFeatures:
        """Features of views (B, view_size, view_size, 3) uint8, as the cache stores them."""
        output = self(views)
        targets, mean, std = normalise_targets(output.hidden)
        return TeacherFeatures(targets=targets, mean=mean, std=std, importance=output.importance)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.mean.device.type, dtype=HALF[self.precision])

    def _stored_tokens(self, tokens: Tensor) -> Tensor:
        """Token 0 and the patches, without registers; token 0 is the mean of the patches if there is no class token."""
        prefix = self.trunk.prefix_tokens
        if self.has_class_token and prefix == 1:
            return tokens
        patches = tokens[:, prefix:]
        return torch.cat([tokens[:, :1] if self.has_class_token else patches.mean(dim=1, keepdim=True), patches], dim=1)
