"""Encodes teacher features on the teacher's device, so that only encoded bytes leave it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lookonce.extract.pipeline.view_encoder import ViewEncoder
from lookonce.extract.sanity import find_nonfinite
from lookonce.extract.teachers import normalise_targets
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.precision import get_element_precision
from lookonce.storage_schemas.precision.codes import count_exceeded, count_outside

VALUES_PER_CHUNK = {"cpu": 1 << 19, "cuda": 1 << 27}
"""float32 values encoded at a time: as many as fit a core's cache, or half a gigabyte of GPU memory."""

VIEW_VALUES_PER_CHUNK = {"cpu": 1 << 22, "cuda": 1 << 27}
"""The same for KLT precisions: five views of CLIP-B/16 share one pass over the bases, which fit no cache."""


@dataclass(frozen=True, kw_only=True)
class EncodedTargets:
    """Encoded block outputs of a batch; tensors on the teacher's device."""

    arrays: Mapping[str, Tensor]
    """The precision's arrays, each (B, *shape of a view)."""
    mean: Tensor
    """(B, tokens, L) float32, see ``TeacherFeatures``."""
    std: Tensor
    """(B, tokens, L) float32."""
    nonfinite: Tensor
    """(B,) bool: the outputs, stored or not, contain NaN or infinity."""
    saturated: Tensor
    """int64 scalar: number of values outside the precision's range; in a KLT precision, of tokens' components."""
    judged: int
    """Number of values, or components, that ``saturated`` is out of."""

    @property
    def stored(self) -> Tensor:
        """The array ``targets``."""
        return self.arrays["targets"]


class TargetEncoder(nn.Module):
    """Computes the same bits as the numpy reference of the precision; those of a KLT precision but for rounding.

    Args:
        encoding: precision and calibration of the cache.
    """

    scale: Tensor | None
    offset: Tensor | None
    thresholds: Tensor | None

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self.views = ViewEncoder(encoding.parameters) if encoding.codes_views else None
        if self.views is not None:
            return
        self._precision = get_element_precision(encoding.precision)
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
            # copied: arrays that come through Ray are read-only
            self.register_buffer(name, None if values is None else torch.tensor(values), persistent=False)

    def forward(self, hidden: Sequence[Tensor], kept: Tensor | None = None) -> EncodedTargets:
        """Normalise block outputs and encode them in chunks of samples; does not wait for a GPU.

        Args:
            hidden: L tensors (B, 1 + N, C), see ``TeacherOutput``.
            kept: int64 (B, k), the tokens to encode; None for all.
        """
        batch, tokens, channels = hidden[0].shape
        values = VALUES_PER_CHUNK if self.views is None else VIEW_VALUES_PER_CHUNK
        length = max(1, values[hidden[0].device.type] // (tokens * len(hidden) * channels))
        parts = []
        for start in range(0, batch, length):
            some = slice(start, start + length)
            parts.append(self._encode_some([level[some] for level in hidden], None if kept is None else kept[some]))
        arrays, mean, std, nonfinite, saturated = zip(*parts, strict=True)
        return EncodedTargets(
            arrays={name: torch.cat([part[name] for part in arrays]) for name in arrays[0]},
            mean=torch.cat(mean),
            std=torch.cat(std),
            nonfinite=torch.cat(nonfinite),
            saturated=torch.stack(saturated).sum(),
            judged=self._judged(sum(len(part) for part in mean), mean[0].shape[1], len(hidden) * channels),
        )

    def _judged(self, views: int, tokens: int, values: int) -> int:
        if self.views is not None:
            return views * (tokens - 1) * self.views.components
        return views * tokens * values

    def encode_targets(self, targets: Tensor) -> dict[str, Tensor]:
        """The precision's arrays of targets float32 (B, 1 + k, L, C), LayerNormed and finite."""
        return self._encode_targets(targets)[0]

    def encode(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Encode values one by one; not for KLT precisions.

        Args:
            targets: float32 (..., layer, channel), LayerNormed and finite.

        Returns:
            Elements in the precision's stored dtype, (..., layer, stored channel), and the number of values outside the
            representable range, int64 scalar.
        """
        if self._float_dtype is not None:
            nothing = torch.zeros((), dtype=torch.int64, device=targets.device)
            return targets.to(self._float_dtype).view(getattr(torch, self._precision.dtype)), nothing
        return self._quantise(targets)

    def _encode_some(
        self, hidden: Sequence[Tensor], kept: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, Tensor]:
        targets, mean, std = normalise_targets(hidden)
        nonfinite = find_nonfinite(mean, std)
        if kept is not None:
            samples = torch.arange(len(kept), device=kept.device)[:, None]
            targets, mean, std = targets[samples, kept], mean[samples, kept], std[samples, kept]
        arrays, saturated = self._encode_targets(targets)
        return arrays, mean, std, nonfinite, saturated

    def _encode_targets(self, targets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        if self.views is not None:
            encoded: tuple[dict[str, Tensor], Tensor] = self.views(targets)
            return encoded
        elements, saturated = self.encode(targets)
        return {"targets": elements}, saturated

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
    """Number of values outside the range, int64 scalar."""
    if normalised.is_cpu:  # numpy compares in vector registers, torch value by value
        return torch.tensor(count_outside(normalised.numpy(), low, high))
    return normalised.ne(normalised.clamp(low, high)).count_nonzero()


def _levels(normalised: Tensor, thresholds: Tensor) -> Tensor:
    """Index of the nearest level, uint8: the number of thresholds below the value."""
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
