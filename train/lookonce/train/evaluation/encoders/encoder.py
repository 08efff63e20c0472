"""The protocol of evaluated models: an encoder turns views into one feature vector each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookonce.shared.errors import NumericalError
from lookonce.shared.normalisation import Normalisation
from lookonce.shared.progress_bar import progress_bar
from lookonce.train.evaluation.labelled_images import LabelledSplit


class Encoder(Protocol):
    """A frozen model with a pooling rule; the features of an image do not depend on the rest of its batch."""

    @property
    def view_size(self) -> int:
        """Side of its views, pixels."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of its features."""
        ...

    @property
    def normalisation(self) -> Normalisation:
        """Normalisation of the model's pixels."""
        ...

    def __call__(self, views: NDArray[np.uint8]) -> Tensor:
        """Features of views.

        Args:
            views: uint8 (B, view_size, view_size, 3) RGB.

        Returns:
            float32 (B, D), on the encoder's device, without gradient.
        """
        ...

    def document(self) -> Mapping[str, Any]:
        """JSON-compatible: kind, name, weights, view size and pool."""
        ...


class PatchEncoder(Encoder, Protocol):
    """An encoder with the pool ``patches``: its features are float32 (B, N, D), patches row by row."""

    @property
    def block(self) -> int:
        """Number of the block that is read, from 1."""
        ...

    @property
    def block_count(self) -> int:
        """Number of the model's blocks."""
        ...


def encode_split(encoder: Encoder, split: LabelledSplit, batch_size: int) -> Tensor:
    """Features of all images of a split, float32 (images, D), in listing order; progress goes to standard error.

    Args:
        encoder: turns views into features.
        split: images.
        batch_size: images per forward pass.

    Raises:
        NumericalError: features are NaN or infinite.
        SourceError: an image cannot be read.
    """
    parts: list[Tensor] = []
    with progress_bar(total=len(split), unit="image", label=f"encode {split.name}", brief=True) as bar:
        for views in split.batches(encoder.view_size, batch_size):
            parts.append(encoder(views))
            bar.update(len(views))
    features = torch.cat(parts)
    require_finite(features, split, range(len(split)))
    return features


def require_finite(features: Tensor, split: LabelledSplit, rows: Sequence[int]) -> None:
    """Refuse features (B, D), of the images at ``rows`` of the listing, that are not finite.

    Raises:
        NumericalError: features are NaN or infinite; the first such image is named.
    """
    bad = torch.nonzero(~features.isfinite().all(dim=1)).flatten().tolist()
    if bad:
        raise NumericalError(
            f"{split.name}: the features of {len(bad)} of {len(features)} images are NaN or infinite, the first of "
            f"{split.listing.entries[rows[bad[0]]].key}; the weights are damaged or from a training that diverged"
        )
