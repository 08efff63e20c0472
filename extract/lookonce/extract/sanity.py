"""Checks and statistics that reveal wrong teacher features while they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookonce.extract.teachers import TeacherFeatures
from lookonce.shared.errors import NumericalError


def find_nonfinite(*values: Tensor) -> Tensor:
    """Which samples of a batch contain NaN or infinity: bool (B,), on the device of the values.

    For block outputs it is enough to pass their means and standard deviations, which are not finite if an output is
    not finite.

    Args:
        values: of any shapes (B, ...).
    """
    bad = torch.zeros(len(values[0]), dtype=torch.bool, device=values[0].device)
    for each in values:
        bad |= ~torch.isfinite(each.flatten(1).sum(1))
    return bad


def refuse_nonfinite(nonfinite: Tensor, keys: Sequence[str], seed: int) -> None:
    """Refuse NaN and infinity.

    Args:
        nonfinite: bool (B,), see ``find_nonfinite``.
        keys: sample keys of the batch, in order.
        seed: augmentation seed, for the message.

    Raises:
        NumericalError: names the first bad sample.
    """
    if bool(nonfinite.any()):
        key = keys[int(nonfinite.nonzero()[0, 0])]
        raise NumericalError(
            f"sample {key!r}, seed {seed}: the teacher's features contain NaN or infinity; nothing of this shard was "
            "kept. Try --compute-precision fp32 (fp16 overflows for some teachers) and check the weights"
        )


def check_finite(features: TeacherFeatures, keys: Sequence[str], seed: int) -> None:
    """Refuse NaN and infinity; see ``refuse_nonfinite``."""
    refuse_nonfinite(find_nonfinite(features.mean, features.std, features.importance), keys, seed)


class ShardStatistics:
    """Means over the samples of one (seed, shard), for its receipt."""

    def __init__(self) -> None:
        self._sums = {"feature_norm": 0.0, "importance_entropy": 0.0, "saturated_share": 0.0}
        self._samples = 0

    def add(
        self, values: Mapping[str, NDArray[Any]], saturated_share: float, width: int, feature_norm: float = 0.0
    ) -> None:
        """Add a batch.

        Args:
            values: arrays of the batch, as they are written.
            saturated_share: share of target values outside the precision's range, 0..1.
            width: channels of a token.
            feature_norm: mean L2 norm of a raw token, for values without mean and standard deviation of tokens.
        """
        if "target_mean" in values:
            mean, std = values["target_mean"].astype(np.float64), values["target_std"].astype(np.float64)
            feature_norm = float(np.sqrt(width * (mean**2 + std**2)).mean())
        importance = values["importance"].astype(np.float64)
        probability = importance / np.maximum(importance.sum(axis=1, keepdims=True), 1e-30)
        entropy = -(probability * np.log(np.maximum(probability, 1e-30))).sum(axis=1)
        count = len(importance)
        self._samples += count
        self._sums["feature_norm"] += count * feature_norm
        self._sums["importance_entropy"] += float(entropy.sum())
        self._sums["saturated_share"] += count * saturated_share

    def document(self) -> dict[str, float]:
        """``feature_norm`` (mean L2 norm of a raw token), ``importance_entropy`` (nats) and ``saturated_share``."""
        return {name: round(total / max(self._samples, 1), 6) for name, total in self._sums.items()}
