"""The input of one forward pass: visible patches of views, and each teacher's features of them."""

# Shapes: B samples, n = 1 + k tokens (CLS, then visible patches), L layers that a cache stores.

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from lookonce.train.data.target_norm import LevelStatistics


@dataclass(frozen=True, kw_only=True)
class StoredTargets:
    """One teacher's features of the visible tokens, as its cache stores them."""

    elements: Tensor
    """Encoded elements (B, n, L, stored channels), token 0 is the class token; in a KLT precision records of the
    visible patches, uint8 (B, k, bytes)."""
    class_elements: Tensor | None = None
    """KLT precisions: class tokens, uint8 (B, L, C)."""
    coarse: Tensor | None = None
    """KLT precisions: records of the views' coarse parts, uint8 (B, bytes)."""
    positions: Tensor | None = None
    """KLT precisions: positions of the visible patches among the stored ones, int64 (B, k)."""
    token_mean: Tensor | None = None
    """float32 or float16 (B, n, L), the mean that LayerNorm subtracted; None if the target norm does not need it."""
    token_std: Tensor | None = None
    """The same of the standard deviation."""
    statistics: LevelStatistics | None = None
    """Moments (L,) over all tokens of the global batch, for the target norm "bn"."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The input of one forward pass; it contains nothing of masked patches."""

    visible_pixels: Tensor
    """uint8 (B, k, patch size squared * 3)."""
    visible_ids: Tensor
    """int64 (B, k), ascending patch numbers."""
    targets: tuple[StoredTargets, ...]
    """One per cache."""
    branch_scales: Tensor | None = None
    """Stochastic depth: float32 (student blocks, 2, B), factors on residual branches; None without stochastic depth."""
    share: float = 1.0
    """Share of the global batch's samples in this batch: its weight in the step's loss."""

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; copies from page-locked memory to a GPU are asynchronous."""
        moved: Batch = _moved(self, device)
        return moved


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: _moved(getattr(value, field.name), device) for field in fields(value)})
    return value
