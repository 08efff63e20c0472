"""Decodes targets of the KLT precisions where the student runs: table look-ups and a matrix product per batch."""

# Shapes: B samples, k visible patches, L decoded layers, C channels, F spatial functions, m components of a token,
# p components of the coarse part.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.precision.klt.bit_records import SPAN, BitRecord
from lookonce.storage_schemas.precision.klt.quantisers import table_start
from lookonce.storage_schemas.precision.klt.spatial import spatial_basis
from lookonce.storage_schemas.precision.klt.view_code import ViewCode
from lookonce.train.data.batch import StoredTargets


class ViewDecoder(nn.Module):
    """Decodes the aligned levels of a cache's targets; computes what ``ViewCode.decode_patches`` does.

    Args:
        manifest: of the cache.
        layers: positions on the cache's layer axis to decode, in the wanted order.
    """

    mean: Tensor
    basis: Tensor
    coarse_basis: Tensor
    coarse_scale: Tensor
    functions: Tensor
    class_scale: Tensor
    class_offset: Tensor

    def __init__(self, manifest: Manifest, layers: Sequence[int]) -> None:
        super().__init__()
        code = ViewCode.from_parameters(manifest.encoding.parameters)
        self._layers, self._channels = list(layers), code.channels

        def of_layers(values: NDArray[np.floating]) -> NDArray[np.float32]:
            by_layer = values.astype(np.float32).reshape(code.layers, code.channels, -1)[self._layers]
            return by_layer.reshape(len(self._layers) * code.channels, -1)

        tables = {
            "mean": of_layers(code.mean)[:, 0],
            "basis": of_layers(code.basis).T,
            "coarse_basis": of_layers(code.coarse_basis).T,
            "coarse_scale": code.coarse_scale,
            "functions": spatial_basis(manifest.recipe.stored_patches, code.functions),
            "class_scale": code.class_scale[self._layers],
            "class_offset": code.class_offset[self._layers],
        }
        for name, values in tables.items():
            self.register_buffer(name, torch.tensor(values), persistent=False)
        self._tokens = _RecordReader(code, code.token_bits, code.token_record, code.token_scale)
        self._coarse = _RecordReader(
            code, code.coarse_bits.reshape(-1), code.coarse_record, code.coarse_scale.reshape(-1)
        )

    def decode(self, stored: StoredTargets) -> Tensor:
        """Decode the visible tokens of a batch, float32 (B, 1 + k, L, C), the class token first.

        Raises:
            ValueError: the batch lacks the coarse part, the class tokens or the positions.
        """
        decoded: Tensor = self(stored)
        return decoded

    def forward(self, stored: StoredTargets) -> Tensor:
        """See ``decode``."""
        if stored.coarse is None or stored.class_elements is None or stored.positions is None:
            raise ValueError("targets of a KLT precision need their coarse part, class tokens and positions")
        coarse = self._coarse(stored.coarse).view(len(stored.coarse), *self.coarse_scale.shape) @ self.coarse_basis
        patches = self._tokens(stored.elements) @ self.basis + self.functions[stored.positions] @ coarse + self.mean
        classes = torch.addcmul(
            self.class_offset, stored.class_elements[:, self._layers].float(), self.class_scale
        ).unsqueeze(1)
        return torch.cat([classes, patches.unflatten(-1, (len(self._layers), self._channels))], dim=1)


class _RecordReader(nn.Module):
    """Components of records."""

    first_byte: Tensor
    shift: Tensor
    mask: Tensor
    starts: Tensor
    scale: Tensor
    levels: Tensor

    def __init__(self, code: ViewCode, bits: NDArray[np.uint8], record: BitRecord, scale: NDArray[np.float32]) -> None:
        super().__init__()
        wide = bits.astype(np.int64)
        tables = {
            "first_byte": record.first_byte,
            "shift": record.shift.astype(np.int32),
            "mask": record.mask.astype(np.int32),
            "starts": table_start(wide).astype(np.int32),
            "scale": np.where(wide > 0, scale, np.float32(0)),
            "levels": code.levels,
        }
        self._span = 2 if wide.max(initial=0) <= 8 else SPAN  # bytes that an index can touch
        for name, values in tables.items():
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def forward(self, records: Tensor) -> Tensor:
        """Components float32 (..., n) of records uint8 (..., bytes)."""
        padded = functional.pad(records, (0, SPAN)).int()
        word = padded[..., self.first_byte]
        for byte in range(1, self._span):
            word = word | (padded[..., self.first_byte + byte] << (8 * byte))
        indices = ((word >> self.shift) & self.mask) + self.starts
        components: Tensor = self.levels[indices.long()] * self.scale
        return components
