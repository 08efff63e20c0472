"""Adapters from the student's width to the teacher's: several of one kind, evaluated as one batched product.

The parameters of ``count`` adapters are stacked along a first axis, so that one ``baddbmm`` evaluates them all. Adapter
``a`` is the usual module with the slices ``weight[a]`` and ``bias[a]``.
"""

# Shapes: A adapters, B samples, n tokens, I channels in, O channels out.

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lookonce.train.names import require_known

ADAPTER_NORM_EPS = 1e-6


class StackedLinear(nn.Module):
    """``count`` linear layers side by side: Xavier-uniform weights, zero bias."""

    def __init__(self, count: int, in_dim: int, out_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, out_dim, in_dim))
        self.bias = nn.Parameter(torch.zeros(count, out_dim))
        for matrix in self.weight.detach():  # one by one: Xavier needs the fan of a layer, not of the stack
            nn.init.xavier_uniform_(matrix, generator=generator)

    def forward(self, x_ABnI: Tensor) -> Tensor:
        """Layer ``a`` of ``x[a]``: (A, B, n, I) to (A, B, n, O)."""
        x_AMI = x_ABnI.flatten(1, 2)
        y_AMO = torch.baddbmm(self.bias.unsqueeze(1), x_AMI, self.weight.transpose(1, 2))
        return y_AMO.reshape(*x_ABnI.shape[:3], -1)


class StackedLayerNorm(nn.Module):
    """``count`` LayerNorms (eps 1e-6) side by side."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(count, dim))
        self.bias = nn.Parameter(torch.zeros(count, dim))

    def forward(self, x_ABnI: Tensor) -> Tensor:
        """Norm ``a`` of ``x[a]`` over channels; keeps the shape."""
        normed_ABnI = functional.layer_norm(x_ABnI, x_ABnI.shape[-1:], eps=ADAPTER_NORM_EPS)
        return torch.addcmul(self.bias[:, None, None], normed_ABnI, self.weight[:, None, None])


def _linear(count: int, in_dim: int, out_dim: int, generator: torch.Generator) -> nn.Module:
    return StackedLinear(count, in_dim, out_dim, generator)


def _norm_linear(count: int, in_dim: int, out_dim: int, generator: torch.Generator) -> nn.Module:
    return nn.Sequential(StackedLayerNorm(count, in_dim), StackedLinear(count, in_dim, out_dim, generator))


def _mlp(count: int, in_dim: int, out_dim: int, generator: torch.Generator) -> nn.Module:
    return nn.Sequential(
        StackedLinear(count, in_dim, in_dim, generator),
        nn.GELU(),
        StackedLinear(count, in_dim, out_dim, generator),
    )


def _mlp2(count: int, in_dim: int, out_dim: int, generator: torch.Generator) -> nn.Module:
    return nn.Sequential(
        StackedLinear(count, in_dim, in_dim, generator),
        StackedLayerNorm(count, in_dim),
        StackedLinear(count, in_dim, out_dim, generator),
    )


ADAPTERS: dict[str, Callable[[int, int, int, torch.Generator], nn.Module]] = {
    "linear": _linear,
    "norm-linear": _norm_linear,
    "mlp": _mlp,
    "mlp2": _mlp2,
}
"""Builders by name; arguments: number of adapters, student width, teacher width, generator for the weights."""


def build_adapters(name: str, *, count: int, in_dim: int, out_dim: int, generator: torch.Generator) -> nn.Module:
    """``count`` adapters of one kind, as one module from (count, B, n, in_dim) to (count, B, n, out_dim).

    Args:
        name: "linear"; "norm-linear" (LayerNorm, Linear); "mlp" (Linear, GELU, Linear); "mlp2" (Linear, LayerNorm,
            Linear). Hidden layers have the student's width.
        count: number of adapters.
        in_dim: width of the student.
        out_dim: width of the teacher.
        generator: CPU generator for the weights.

    Raises:
        UsageError: unknown name.
    """
    require_known("adapter", name, ADAPTERS)
    return ADAPTERS[name](count, in_dim, out_dim, generator)
