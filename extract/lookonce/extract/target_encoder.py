"""Teacher features to stored elements on the teacher's device, so that only encoded bytes leave it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.precision import get_precision

CACHED_VALUES = 1 << 18
"""Values, float32, that are encoded at a time on a CPU."""


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
            # copied: what comes through Ray may not be written to
            self.register_buffer(name, None if values is None else torch.tensor(values), persistent=False)

    def forward(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Encode, and measure what saturated; waits for nothing that a GPU still has to do.

        Args:
            targets: float32 (..., layer, channel), LayerNormed and finite.

        Returns:
            Elements in the precision's stored dtype, (..., layer, stored channel), and the share (0..1) of values
            outside the representable range, float64, no dimensions.
        """
        if self._float_dtype is not None:
            nothing = torch.zeros((), dtype=torch.float64, device=targets.device)
            return targets.to(self._float_dtype).view(getattr(torch, self._precision.dtype)), nothing
        slices = torch.split(targets, _slice_length(targets)) if targets.dim() > 2 else (targets,)
        parts, saturated = zip(*(self._quantise(values) for values in slices), strict=True)
        stored = parts[0] if len(parts) == 1 else torch.cat(parts)
        return stored, torch.stack(saturated).sum().double() / targets.numel()

    def _quantise(self, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.scale is None or self.offset is None or self._limits is None:
            raise ValueError(f"{self._precision.name}: neither a float type nor an affine map")
        normalised = torch.sub(values, self.offset).div_(self.scale)
        saturated = normalised.ne(normalised.clamp(*self._limits)).count_nonzero()
        if self.thresholds is None:
            return normalised.round_().clamp_(0, 2**self._bits - 1).to(torch.uint8), saturated
        return _pack(_levels(normalised, self.thresholds), self._bits), saturated


def _slice_length(targets: Tensor) -> int:
    """Samples to work on at a time; slices that stay in a CPU's cache take a fifth of the time of whole batches."""
    return max(1, CACHED_VALUES // max(1, targets[0].numel())) if targets.is_cpu else max(1, len(targets))


def _levels(normalised: Tensor, thresholds: Tensor) -> Tensor:
    """Numbers of the nearest levels, uint8: how many thresholds a value exceeds."""
    if not normalised.is_cpu:
        return torch.bucketize(normalised, thresholds, out_int32=True).to(torch.uint8)
    codes = torch.zeros(normalised.shape, dtype=torch.uint8)
    for threshold in thresholds:  # on a CPU, 15 vectorised comparisons beat a binary search by half
        codes += normalised > threshold
    return codes


def _pack(codes: Tensor, bits: int) -> Tensor:
    per_byte = 8 // bits
    padded = nn.functional.pad(codes, (0, -codes.shape[-1] % per_byte))
    groups = padded.view(*padded.shape[:-1], -1, per_byte)
    packed: Tensor = groups[..., 0].clone()
    for position in range(1, per_byte):
        packed |= groups[..., position] << (bits * position)
    return packed
