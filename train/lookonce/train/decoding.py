"""Stored target elements to floats, where the student runs: one fused expression a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.precision import get_precision


class TargetDecoder(nn.Module):
    """Decodes the aligned levels of a cache's targets; computes what the precision's numpy reference does.

    Args:
        encoding: precision and calibration of the cache.
        layers: positions on the cache's layer axis to decode, in the wanted order.
        channels: channels C of a decoded value.
    """

    levels: Tensor | None
    scale: Tensor | None
    offset: Tensor | None

    def __init__(self, encoding: Encoding, layers: Sequence[int], channels: int) -> None:
        super().__init__()
        plan = get_precision(encoding.precision).plan(encoding.parameters)
        self._layers = list(layers)
        self._channels = channels
        for name, values in (("scale", plan.scale), ("offset", plan.offset)):
            tensor = None if values is None else torch.from_numpy(values)[self._layers]
            self.register_buffer(name, tensor, persistent=False)
        table = None if plan.levels is None else torch.from_numpy(plan.levels)
        self.register_buffer("levels", table, persistent=False)

    def forward(self, stored: Tensor) -> Tensor:
        """Decode.

        Args:
            stored: elements as read, (B, n, cache layers, stored channels).

        Returns:
            float32 (B, n, L, C), the layers this decoder was made for.
        """
        cache_layers = stored.shape[2]
        if self._layers != list(range(cache_layers)):
            stored = stored[:, :, self._layers]
        if self.levels is not None:
            values = self.levels[stored.long()].flatten(-2)[..., : self._channels]
        else:
            values = stored.float()
        if self.scale is not None and self.offset is not None:
            values = torch.addcmul(self.offset, values, self.scale)
        return values
