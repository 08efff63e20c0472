"""Teacher features to stored elements on the teacher's device, so that only encoded bytes leave it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.precision import get_precision


class TargetEncoder(nn.Module):
    """Computes what the precision's numpy reference does, bit for bit.

    Args:
        encoding: precision and calibration of the cache.
    """

    scale: Tensor | None
    offset: Tensor | None
    thresholds: Tensor | None

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self._precision = get_precision(encoding.precision)
        plan = self._precision.plan(encoding.parameters)
        self._bits = plan.bits
        self._limits = plan.limits if plan.float_dtype is None else None
        self._float_dtype: torch.dtype | None = getattr(torch, plan.float_dtype) if plan.float_dtype else None
        tables = {
            "scale": plan.scale,
            "offset": plan.offset,
            "thresholds": None if plan.levels is None else plan.thresholds,
        }
        for name, values in tables.items():
            self.register_buffer(name, None if values is None else torch.from_numpy(values), persistent=False)

    def forward(self, targets: Tensor) -> tuple[Tensor, float]:
        """Encode, and measure what saturated.

        Args:
            targets: float32 (..., layer, channel), LayerNormed.

        Returns:
            Elements in the precision's stored dtype, (..., layer, stored channel), and the share (0..1) of values
            outside the representable range.
        """
        if self._float_dtype is not None:
            return targets.to(self._float_dtype).view(getattr(torch, self._precision.dtype)), 0.0
        if self.scale is None or self.offset is None or self._limits is None:
            raise ValueError(f"{self._precision.name}: neither a float type nor an affine map")
        normalised = (targets - self.offset) / self.scale
        low, high = self._limits
        saturated = float(((normalised < low) | (normalised > high)).double().mean())
        if self.thresholds is None:
            return normalised.round_().clamp_(0, 2**self._bits - 1).to(torch.uint8), saturated
        codes = torch.bucketize(normalised, self.thresholds, out_int32=True).to(torch.uint8)
        return _pack(codes, self._bits), saturated


def _pack(codes: Tensor, bits: int) -> Tensor:
    per_byte = 8 // bits
    padded = nn.functional.pad(codes, (0, -codes.shape[-1] % per_byte))
    groups = padded.view(*padded.shape[:-1], -1, per_byte)
    packed: Tensor = groups[..., 0].clone()
    for position in range(1, per_byte):
        packed |= groups[..., position] << (bits * position)
    return packed
