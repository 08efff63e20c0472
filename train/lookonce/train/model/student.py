"""The student: a timm vision transformer over visible patches; masked patches are never computed."""

# Shapes: B samples, k visible patches, p patch side, P = p * p * 3 values of a patch, D channels.

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lookonce.shared.errors import UsageError
from lookonce.shared.names import close_names, did_you_mean
from lookonce.shared.normalisation import IMAGENET, Normalisation
from lookonce.train.model.position import sincos_position_embedding
from lookonce.train.model.sharded_tensors import full_tensor

CLS_STD = 0.02


class Student(nn.Module):
    """Vision transformer by timm name, from scratch: fixed sine-cosine positions, Xavier weights, no head.

    Args:
        name: timm name of a plain vision transformer with a class token, e.g. ``vit_base_patch16_224``.
        img_size: side of the (square) view in pixels, a multiple of the patch size.
        seed: seed of the initial weights; the global random state is not used.
        activation_checkpointing: recompute each block in the backward pass instead of storing its activations: less
            memory, a third more arithmetic, the same numbers.
        normalisation: normalisation of the pixels.

    Raises:
        UsageError: unknown model, or one that cannot be a student.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        name: str,
        *,
        img_size: int = 224,
        seed: int = 0,
        activation_checkpointing: bool = False,
        normalisation: Normalisation = IMAGENET,
    ) -> None:
        super().__init__()
        self._checkpointing = activation_checkpointing
        self.name = name
        self.img_size = img_size
        self.normalisation = normalisation
        self.model = _create_model(name, img_size)
        self.patch_size: int = self.model.patch_embed.patch_size[0]
        self.grid: int = img_size // self.patch_size
        self.dim: int = self.model.embed_dim
        self.depth: int = len(self.model.blocks)
        self.register_buffer("pixel_mean", _per_value(normalisation.mean, self.patch_size), persistent=False)
        self.register_buffer("pixel_std", _per_value(normalisation.std, self.patch_size), persistent=False)
        self._initialise(torch.Generator().manual_seed(seed))

    def forward(
        self,
        visible_pixels: Tensor,
        visible_ids: Tensor,
        branch_scales: Tensor | None = None,
        blocks: int | None = None,
    ) -> tuple[Tensor, ...]:
        """Output of the blocks, before the final norm, for CLS and the visible patches.

        Args:
            visible_pixels: the visible patches, uint8 (B, k, p * p * 3), values in (row, column, channel) order.
            visible_ids: their places in the grid, row by row, int64 (B, k), 0 to grid * grid - 1.
            branch_scales: stochastic depth, float32 (depth, 2, B), see ``branch_scales``; None for none.
            blocks: number of blocks to compute, from the first; None for all.

        Returns:
            One tensor (B, k + 1, D) per block, first block first; token 0 is CLS.

        Raises:
            UsageError: patches of another size or type.
        """
        self._check_pixels(visible_pixels)
        position_ND = self.model.pos_embed[0]
        patches_BkD = self._embed(visible_pixels) + position_ND[1:][visible_ids]
        cls_11D = self.model.cls_token + position_ND[:1]
        tokens = torch.cat([cls_11D.expand(len(patches_BkD), -1, -1).to(patches_BkD.dtype), patches_BkD], dim=1)
        outputs = []
        for number, block in enumerate(self.model.blocks[:blocks]):
            scale = None if branch_scales is None else branch_scales[number]
            if self._checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, scale, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens, scale)
            outputs.append(tokens)
        return tuple(outputs)

    def export_state(self) -> dict[str, Tensor]:
        """All weights under timm's names, without a head: copies, contiguous, on the CPU.

        ``timm.create_model(name, img_size=img_size)`` loads them strictly, except for its head. No gradient reaches the
        final norm, which keeps its initial weight 1 and bias 0. Every process has to call this for a sharded student.
        """
        state = self.model.state_dict()
        return {key: full_tensor(value.detach()).to("cpu", copy=True).contiguous() for key, value in state.items()}

    def _embed(self, visible_pixels: Tensor) -> Tensor:
        """Patch embedding of single patches: the convolution with stride p as a linear layer."""
        normalised_BkP = (visible_pixels.to(self.pixel_mean.dtype) / 255.0 - self.pixel_mean) / self.pixel_std
        projection = self.model.patch_embed.proj
        weight_DP = projection.weight.permute(0, 2, 3, 1).flatten(1)
        return functional.linear(normalised_BkP, weight_DP, projection.bias)

    def _check_pixels(self, visible_pixels: Tensor) -> None:
        values = self.patch_size**2 * 3
        if visible_pixels.dtype != torch.uint8 or visible_pixels.shape[-1] != values:
            raise UsageError(
                f"student {self.name}: expected uint8 patches of {self.patch_size} x {self.patch_size} x 3 = {values} "
                f"values, found {visible_pixels.dtype} of {visible_pixels.shape[-1]} values; "
                "use a student with the cache's patch size"
            )

    def _initialise(self, generator: torch.Generator) -> None:
        """Xavier-uniform matrices, zero biases, CLS normal(0.02), fixed positions; norms stay at 1 and 0."""
        with torch.no_grad():
            for layer in self.model.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    # flatten: the patch convolution is initialised as the linear layer that it computes
                    nn.init.xavier_uniform_(layer.weight.flatten(1), generator=generator)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
            nn.init.normal_(self.model.cls_token, std=CLS_STD, generator=generator)
            self.model.pos_embed.copy_(sincos_position_embedding(self.dim, self.grid).unsqueeze(0))
        self.model.pos_embed.requires_grad_(False)
        for unused in (self.model.norm, self.model.fc_norm):
            unused.requires_grad_(False)


class StudentBlock(nn.Module):
    """The layers of a timm ``Block``, under its names; stochastic depth is an input instead of random.

    The scales are an argument of ``forward``, not state of modules in the place of timm's ``drop_path1``: activation
    checkpointing recomputes a block with the arguments of its own pass.

    Args:
        block: its layers are shared; its ``drop_path`` modules have no parameters and are dropped.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = block.norm1, block.attn, block.ls1
        self.norm2, self.mlp, self.ls2 = block.norm2, block.mlp, block.ls2

    def forward(self, x: Tensor, branch_scale: Tensor | None = None) -> Tensor:
        """Output of the block, (B, n, D).

        Args:
            x: tokens, (B, n, D).
            branch_scale: factor on the attention and on the MLP branch of each sample, float32 (2, B); None for 1.
        """
        attention, mlp = (None, None) if branch_scale is None else branch_scale[:, :, None, None].to(x.dtype)
        x = x + _scaled(self.ls1(self.attn(self.norm1(x))), attention)
        return x + _scaled(self.ls2(self.mlp(self.norm2(x))), mlp)


def _scaled(branch: Tensor, scale_B11: Tensor | None) -> Tensor:
    return branch if scale_B11 is None else branch * scale_B11


def _per_value(channels: tuple[float, ...], patch_size: int) -> Tensor:
    """A number per channel, repeated for each pixel of a patch in (row, column, channel) order: shape (P,)."""
    return torch.tensor(channels, dtype=torch.float32).repeat(patch_size * patch_size)


def _create_model(name: str, img_size: int) -> Any:
    """The timm model, untyped because timm is; its own random initialisation is discarded."""
    if not timm.is_model(name):
        close = did_you_mean(close_names(name, timm.list_models(), most=5))
        raise UsageError(f"student: timm has no model {name!r}{close}; take a plain one such as vit_base_patch16_224")
    with torch.random.fork_rng(devices=[]):
        try:
            model: Any = timm.create_model(name, pretrained=False, img_size=img_size, num_classes=0)
        except TypeError as error:
            raise UsageError(_unfit(name, "it takes no image size")) from error
    problem = _misfit(model, img_size)
    if problem is not None:
        raise UsageError(_unfit(name, problem))
    model.blocks = nn.Sequential(*map(StudentBlock, model.blocks))
    return model


def _misfit(model: Any, img_size: int) -> str | None:
    """Why a timm model cannot be a student, or None if it can."""
    if not isinstance(model, VisionTransformer):
        return f"it is a {type(model).__name__}"
    if not model.has_class_token:
        return "it has no class token"
    if model.num_prefix_tokens != 1:
        return f"it has {model.num_prefix_tokens - 1} tokens (register or distillation) beside the class token"
    if model.pos_embed is None or model.no_embed_class:
        return "it has no absolute position embedding of class token and patches"
    if not isinstance(model.norm_pre, nn.Identity) or not isinstance(model.patch_embed.norm, nn.Identity):
        return "it has a norm before the first block"
    if any(type(block) is not Block for block in model.blocks):
        return f"its blocks are of type {type(model.blocks[0]).__name__}"
    patch_height, patch_width = model.patch_embed.patch_size
    if patch_height != patch_width or model.in_chans != 3:
        return "its patches are not square or not RGB"
    if img_size < patch_height or img_size % patch_height:
        least = max(img_size // patch_height, 1) * patch_height
        return (
            f"views of {img_size} pixels are not cut evenly by its patches of {patch_height}; take views of {least} or "
            f"{least + patch_height} pixels"
        )
    return None


def _unfit(name: str, problem: str) -> str:
    return (
        f"student {name} does not fit: {problem}; expected a plain timm VisionTransformer with a class token, no "
        "register tokens, a position embedding and a patch size that divides the view, such as vit_base_patch16_224"
    )
