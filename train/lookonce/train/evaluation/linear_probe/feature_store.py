"""Features of a split, stored in parts during an evaluation, so that a killed one does not compute them again."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lookonce.shared.files.atomic import atomic_file
from lookonce.train.evaluation.encoders.encoder import Encoder, encode_split
from lookonce.train.evaluation.labelled_images import LabelledSplit

PART = 8192
"""About how many images a part contains; a part is a whole number of batches."""


def encode_in_parts(encoder: Encoder, split: LabelledSplit, batch_size: int, folder: Path | None) -> Tensor:
    """Features of all images of a split, as from ``encode_split``, float32 (images, D).

    Args:
        encoder: turns views into features.
        split: images.
        batch_size: images per forward pass.
        folder: where the parts of this encoder and split are stored; None stores nothing.

    Raises:
        NumericalError: features are NaN or infinite.
        SourceError: an image cannot be read.
        StorageError: a part could not be written.
    """
    size = batch_size * max(1, PART // batch_size)
    starts = range(0, len(split), size)
    return torch.cat([_part(encoder, split.part(start, start + size), batch_size, folder, start) for start in starts])


def delete_features(folder: Path) -> None:
    """Delete all parts."""
    shutil.rmtree(folder, ignore_errors=True)


def _part(encoder: Encoder, part: LabelledSplit, batch_size: int, folder: Path | None, start: int) -> Tensor:
    if folder is None:
        return encode_split(encoder, part, batch_size)
    path = folder / f"{part.name}-{start:09d}.safetensors"
    features = _stored(path)
    if features is None or len(features) != len(part):
        features = encode_split(encoder, part, batch_size)
        with atomic_file(path) as handle:
            handle.write(save({"features": features.cpu().contiguous()}))
        return features
    return features.to(encoder.device)


def _stored(path: Path) -> Tensor | None:
    try:
        return load_file(path)["features"]
    except (OSError, SafetensorError, KeyError):  # missing or damaged: the part is computed again
        return None
