"""The arithmetic of one step: decode, student, alignment; the part that is compiled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lookonce.train.alignment import AlignmentOutput, DynamicAlignment
from lookonce.train.cached_targets import Batch
from lookonce.train.decoding import TargetDecoder
from lookonce.train.student import Student
from lookonce.train.target_norm import level_statistics, recover_targets


class AlignmentStep(nn.Module):
    """From a batch of the cache to the loss.

    Args:
        student: the student.
        alignment: predicts teacher features from the student's.
        decoder: of the cache's targets, for the aligned levels.
        layers: positions of the aligned levels on the cache's layer axis.
        channels: channels C of a target.
        autocast: dtype of the student's matrix products, or None for float32.
    """

    def __init__(
        self,
        student: Student,
        alignment: DynamicAlignment,
        decoder: TargetDecoder,
        *,
        layers: list[int],
        channels: int,
        autocast: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.student, self.alignment, self.decoder = student, alignment, decoder
        self._layers, self._channels, self._autocast = layers, channels, autocast

    def forward(self, batch: Batch) -> AlignmentOutput:
        """Loss of one batch, which is on the module's device."""
        device = batch.visible_ids.device.type
        with torch.autocast(device, dtype=self._autocast, enabled=self._autocast is not None):
            features = self.student(batch.visible_pixels, batch.visible_ids)
            with torch.autocast(device, enabled=False):
                targets = self._targets(batch)
            output: AlignmentOutput = self.alignment(features, targets)
        return output

    def _targets(self, batch: Batch) -> Tensor:
        whitened: Tensor = self.decoder(batch.stored_targets)
        kind = self.alignment.config.target_norm
        if batch.token_mean is None or batch.token_std is None:  # only "whiten" is read without them
            return whitened
        mean, std = batch.token_mean[..., self._layers], batch.token_std[..., self._layers]
        statistics = level_statistics(mean, std, self._channels) if kind == "bn" else None
        tokens = batch.tokens[..., None].expand(-1, -1, mean.shape[-1])
        return recover_targets(kind, whitened, mean.gather(1, tokens), std.gather(1, tokens), statistics)
