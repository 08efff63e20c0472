"""Decodes stored targets to floats of the wanted norm, on the student's device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.precision import get_element_precision
from lookonce.storage_schemas.precision.codes import unpack
from lookonce.train.data.batch import StoredTargets
from lookonce.train.data.target_norm import LevelStatistics, recover_targets
from lookonce.train.data.view_decoder import ViewDecoder
from lookonce.train.names import TargetNorm


class TargetDecoder(nn.Module):
    """Decodes the aligned levels of a cache's targets; equal to the precision's numpy reference.

    Args:
        encoding: precision and calibration of the cache.
        layers: positions on the cache's layer axis to decode, in the wanted order.
        channels: channels C of a decoded value.
    """

    scale: Tensor | None
    offset: Tensor | None
    byte_levels: Tensor | None

    def __init__(self, encoding: Encoding, layers: Sequence[int], channels: int) -> None:
        super().__init__()
        self._layers = list(layers)
        plan = get_element_precision(encoding.precision).plan(encoding.parameters).for_layers(self._layers)
        self._channels = channels
        self._float_dtype: torch.dtype | None = getattr(torch, plan.float_dtype) if plan.float_dtype else None
        for name, values in (("scale", plan.scale), ("offset", plan.offset)):
            self.register_buffer(name, None if values is None else torch.from_numpy(values), persistent=False)
        table = None
        if plan.levels is not None:  # the levels of every byte, so that unpacking is one look-up
            table = torch.from_numpy(plan.levels[unpack(np.arange(256, dtype=np.uint8)[:, None], plan.bits)])
        self.register_buffer("byte_levels", table, persistent=False)

    def forward(self, stored: Tensor) -> Tensor:
        """Decode.

        Args:
            stored: elements as read, (B, n, cache layers, stored channels).

        Returns:
            float32 (B, n, L, C), the layers of this decoder.
        """
        if self._layers != list(range(stored.shape[2])):
            if stored.dtype == torch.uint16:  # which torch does not index on a GPU
                stored = stored.view(torch.int16)
            stored = stored[:, :, self._layers]
        if self._float_dtype is not None:
            return stored.view(self._float_dtype).float()
        if self.byte_levels is not None:
            values = functional.embedding(stored.int(), self.byte_levels).flatten(-2)[..., : self._channels]
        else:
            values = stored.float()
        if self.scale is None or self.offset is None:
            return values
        return torch.addcmul(self.offset, values, self.scale)

    def decode(self, stored: StoredTargets) -> Tensor:
        """Decode the visible tokens of a batch, float32 (B, n, L, C)."""
        decoded: Tensor = self(stored.elements)
        return decoded


def make_decoder(manifest: Manifest, layers: Sequence[int]) -> TargetDecoder | ViewDecoder:
    """The decoder of a cache's targets.

    Args:
        manifest: of the cache.
        layers: positions on the cache's layer axis to decode, in the wanted order.
    """
    if manifest.encoding.codes_views:
        return ViewDecoder(manifest, layers)
    return TargetDecoder(manifest.encoding, layers, manifest.recipe.teacher.width)


def decode_targets(
    decoder: TargetDecoder | ViewDecoder, layers: list[int], norm: TargetNorm, stored: StoredTargets
) -> Tensor:
    """Targets of a cache, decoded, in the wanted norm.

    Args:
        decoder: decodes the aligned levels.
        layers: positions of these levels on the cache's layer axis.
        norm: the wanted target norm.
        stored: targets as read, on the decoder's device.

    Returns:
        float32 (B, n, L, C).
    """
    with torch.autocast(stored.elements.device.type, enabled=False):
        whitened = decoder.decode(stored)
        if stored.token_mean is None or stored.token_std is None:  # only "whiten" needs none of them
            return whitened
        statistics = stored.statistics
        if statistics is not None:
            statistics = LevelStatistics(mean=statistics.mean[layers], variance=statistics.variance[layers])
        mean, std = stored.token_mean[..., layers].float(), stored.token_std[..., layers].float()
        return recover_targets(norm, whitened, mean, std, statistics)
