"""Teacher features to stored elements on the teacher's device, so that only encoded bytes leave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lookonce.extract.sanity import find_unbounded
from lookonce.extract.teachers import normalise_targets
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.precision import get_precision
from lookonce.storage_schemas.precision.codes import count_exceeded, count_outside

VALUES_AT_A_TIME = {"cpu": 1 << 19, "cuda": 1 << 27}
"""Values, float32, that are worked on at a time: what stays in a core's cache; half a gigabyte of a GPU's memory."""


@dataclass(frozen=True, kw_only=True)
class EncodedTargets:
    """What is written of a batch's block outputs; tensors on the teacher's device."""

    stored: Tensor
    """(B, tokens, L, stored channel), the precision's stored dtype."""
    mean: Tensor
    """(B, tokens, L) float32, see ``TeacherFeatures``."""
    std: Tensor
    """(B, tokens, L) float32."""
    unbounded: Tensor
    """(B,) bool: the outputs, kept or not, hold NaN or infinity."""
    saturated: Tensor
    """int64, no dimensions: how many values are outside the precision's range."""


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

    def forward(self, hidden: Sequence[Tensor], kept: Tensor | None = None) -> EncodedTargets:
        """Normalise block outputs and encode them, some samples at a time; waits for nothing that a GPU has to do.

        Args:
            hidden: L tensors (B, 1 + N, C), as ``Teacher`` gives them.
            kept: int64 (B, k), the tokens to encode; None for all.
        """
        batch, tokens, channels = hidden[0].shape
        length = max(1, VALUES_AT_A_TIME[hidden[0].device.type] // (tokens * len(hidden) * channels))
        parts = []
        for start in range(0, batch, length):
            some = slice(start, start + length)
            parts.append(self._encode_some([level[some] for level in hidden], None if kept is None else kept[some]))
        stored, mean, std, unbounded, saturated = zip(*parts, strict=True)
        return EncodedTargets(
            stored=torch.cat(stored),
            mean=torch.cat(mean),
            std=torch.cat(std),
            unbounded=torch.cat(unbounded),
            saturated=torch.stack(saturated).sum(),
        )

    def encode(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Encode targets.

        Args:
            targets: float32 (..., layer, channel), LayerNormed and finite.

        Returns:
            Elements in the precision's stored dtype, (..., layer, stored channel), and how many values are outside the
            representable range, int64, no dimensions.
        """
        if self._float_dtype is not None:
            nothing = torch.zeros((), dtype=torch.int64, device=targets.device)
            return targets.to(self._float_dtype).view(getattr(torch, self._precision.dtype)), nothing
        return self._quantise(targets)

    def _encode_some(self, hidden: Sequence[Tensor], kept: Tensor | None) -> tuple[Tensor, ...]:
        targets, mean, std = normalise_targets(hidden)
        unbounded = find_unbounded(mean, std)
        if kept is not None:
            samples = torch.arange(len(kept), device=kept.device)[:, None]
            targets, mean, std = targets[samples, kept], mean[samples, kept], std[samples, kept]
        stored, saturated = self.encode(targets)
        return stored, mean, std, unbounded, saturated

    def _quantise(self, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.scale is None or self.offset is None or self._limits is None:
            raise ValueError(f"{self._precision.name}: neither a float type nor an affine map")
        normalised = torch.sub(values, self.offset).div_(self.scale)
        saturated = _outside(normalised, *self._limits)
        if self.thresholds is None:
            codes = normalised.round_().clamp_(0, 2**self._bits - 1)
            return codes.to(torch.int16).to(torch.uint8), saturated  # torch vectorises each of the two, but not both
        return _pack(_levels(normalised, self.thresholds), self._bits), saturated


def _outside(normalised: Tensor, low: float, high: float) -> Tensor:
    """How many values lie outside, int64, no dimensions."""
    if normalised.is_cpu:  # numpy compares in vector registers, torch value by value
        return torch.tensor(count_outside(normalised.numpy(), low, high))
    return normalised.ne(normalised.clamp(low, high)).count_nonzero()


def _levels(normalised: Tensor, thresholds: Tensor) -> Tensor:
    """Numbers of the nearest levels, uint8: how many thresholds a value exceeds."""
    if normalised.is_cpu:
        return torch.from_numpy(count_exceeded(normalised.numpy(), thresholds.numpy()))
    return torch.bucketize(normalised, thresholds, out_int32=True).to(torch.uint8)


def _pack(codes: Tensor, bits: int) -> Tensor:
    per_byte = 8 // bits
    padded = nn.functional.pad(codes, (0, -codes.shape[-1] % per_byte))
    groups = padded.view(*padded.shape[:-1], -1, per_byte)
    packed: Tensor = groups[..., 0].clone()
    for position in range(1, per_byte):
        packed |= groups[..., position] << (bits * position)
    return packed
