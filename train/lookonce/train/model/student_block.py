"""A timm transformer block whose residual branches are scaled by given numbers: stochastic depth without dice."""

from __future__ import annotations

from timm.models.vision_transformer import Block
from torch import Tensor


class StudentBlock(Block):  # type: ignore[misc]  # timm is untyped
    """timm's ``Block``, parameters and arithmetic, with stochastic depth given instead of drawn."""

    def forward(self, x: Tensor, branch_scale: Tensor | None = None) -> Tensor:
        """Output of the block.

        Args:
            x: tokens, (B, n, D).
            branch_scale: factor on the attention and on the MLP branch of each sample, float32 (2, B); None for 1.
        """
        attention, mlp = (None, None) if branch_scale is None else branch_scale[:, :, None, None].to(x.dtype)
        x = x + _scaled(self.ls1(self.attn(self.norm1(x))), attention)
        return x + _scaled(self.ls2(self.mlp(self.norm2(x))), mlp)


def _scaled(branch: Tensor, scale_B11: Tensor | None) -> Tensor:
    return branch if scale_B11 is None else branch * scale_B11
