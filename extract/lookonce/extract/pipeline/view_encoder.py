"""Encodes views in the KLT precisions on the teacher's device; see ``storage_schemas.precision.klt.view_code``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lookonce.storage_schemas.precision.codes import count_exceeded
from lookonce.storage_schemas.precision.klt.bit_records import BitRecord
from lookonce.storage_schemas.precision.klt.quantisers import table_start
from lookonce.storage_schemas.precision.klt.spatial import spatial_basis
from lookonce.storage_schemas.precision.klt.view_code import OUTSIDE, ViewCode

COMPARED_BITS = 4
"""Up to so many bits, comparing with every border is quicker on a CPU than a search."""


class ViewEncoder(nn.Module):
    """Computes what ``ViewCode.encode`` computes, but for rounding of its matrix products.

    Args:
        parameters: of the precision.
    """

    mean: Tensor
    basis: Tensor
    token_scale: Tensor
    coarse_basis: Tensor
    coarse_scale: Tensor
    class_scale: Tensor
    class_offset: Tensor

    def __init__(self, parameters: Mapping[str, NDArray[Any]]) -> None:
        super().__init__()
        code = ViewCode.from_parameters(parameters)
        for name in ("mean", "basis", "token_scale", "coarse_basis", "coarse_scale", "class_scale", "class_offset"):
            self.register_buffer(name, torch.tensor(getattr(code, name)).float(), persistent=False)
        self._functions, self._spatial = code.functions, dict[tuple[int, torch.device], Tensor]()
        self._tokens = _RecordWriter(code, code.token_bits, code.token_record)
        self._coarse = _RecordWriter(code, code.coarse_bits.reshape(-1), code.coarse_record)

    @property
    def components(self) -> int:
        """Kept components m of a token."""
        return self.basis.shape[1]

    def forward(self, targets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Encode views.

        Args:
            targets: float32 (B, 1 + k, L, C), LayerNormed and finite, the class token first.

        Returns:
            ``targets`` (B, k, token record bytes), ``coarse_targets`` (B, coarse record bytes) and ``class_targets``
            (B, L, C), uint8; and how many components of tokens lie outside of what the calibration saw, int64 scalar.
        """
        patches = targets[:, 1:].flatten(2) - self.mean
        functions = self._spatial_basis(patches.shape[1], patches.device)
        coarse = (functions.T @ patches @ self.coarse_basis) / self.coarse_scale
        coarse_indices = self._coarse.nearest(coarse.flatten(1))
        decoded = self._coarse.levels_of(coarse_indices).view_as(coarse) * self.coarse_scale
        rest = patches - functions @ (decoded @ self.coarse_basis.T)
        components = (rest @ self.basis) / self.token_scale
        class_indices = ((targets[:, 0] - self.class_offset) / self.class_scale).round_().clamp_(0, 255)
        stored = {
            "targets": self._tokens.pack(self._tokens.nearest(components)),
            "coarse_targets": self._coarse.pack(coarse_indices),
            "class_targets": class_indices.to(torch.int16).to(torch.uint8),
        }
        return stored, (components.abs() > OUTSIDE).count_nonzero()

    def _spatial_basis(self, patches: int, device: torch.device) -> Tensor:
        if (patches, device) not in self._spatial:
            self._spatial[patches, device] = torch.from_numpy(spatial_basis(patches, self._functions)).to(device)
        return self._spatial[patches, device]


class _RecordWriter(nn.Module):
    """Quantises components of different widths and packs their indices."""

    levels: Tensor
    starts: Tensor
    has_bits: Tensor
    bit_component: Tensor
    bit_place: Tensor
    bit_weight: Tensor

    def __init__(self, code: ViewCode, bits: NDArray[np.uint8], record: BitRecord) -> None:
        super().__init__()
        self._bytes = record.bytes
        component, place = record.bit_sources
        wide = bits.astype(np.int64)
        tables = {
            "levels": code.levels,
            "starts": table_start(wide).astype(np.int32),
            "has_bits": wide > 0,
            "bit_component": component,
            "bit_place": place.astype(np.int32),
            "bit_weight": np.left_shift(1, np.arange(8)).astype(np.int32),
        }
        self._widths = [int(width) for width in np.unique(wide[wide > 0])]
        for width in self._widths:
            table = code.table(width)
            tables[f"borders_{width}"] = (table[1:] + table[:-1]) * np.float32(0.5)
            tables[f"columns_{width}"] = np.flatnonzero(wide == width)
        for name, values in tables.items():
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def nearest(self, normalised: Tensor) -> Tensor:
        """Indices of the nearest levels, int32, of components (..., n) in standard deviations."""
        indices = torch.zeros(normalised.shape, dtype=torch.int32, device=normalised.device)
        for width in self._widths:
            columns, borders = getattr(self, f"columns_{width}"), getattr(self, f"borders_{width}")
            chosen = normalised[..., columns].contiguous()
            if chosen.is_cpu and width <= COMPARED_BITS:
                found = torch.from_numpy(count_exceeded(chosen.numpy(), borders.numpy())).int()
            else:
                found = torch.bucketize(chosen, borders, out_int32=True)
            indices[..., columns] = found
        return indices

    def levels_of(self, indices: Tensor) -> Tensor:
        """Levels, in standard deviations, of indices (..., n); 0 for components without bits."""
        found: Tensor = self.levels[(indices + self.starts).long()] * self.has_bits
        return found

    def pack(self, indices: Tensor) -> Tensor:
        """Records uint8 (..., bytes) of indices int32 (..., n)."""
        planes = (indices[..., self.bit_component] >> self.bit_place) & 1
        grouped = planes.view(*planes.shape[:-1], self._bytes, 8) * self.bit_weight
        return grouped.sum(dim=-1, dtype=torch.int32).to(torch.uint8)
