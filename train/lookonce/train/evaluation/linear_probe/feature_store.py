"""Features of a split, kept in parts while an evaluation is under way: a killed one does not look at images again."""

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
"""About how many images a part holds; parts end where a batch does."""


def encode_in_parts(encoder: Encoder, split: LabelledSplit, batch_size: int, folder: Path | None) -> Tensor:
    """Features of a whole split as ``encode_split`` gives them, float32 (images, D).

    Args:
        encoder: turns views into features.
        split: images.
        batch_size: images a forward pass.
        folder: holds the parts that are done, of this very encoder and split; None keeps nothing.

    Raises:
        NumericalError: features are NaN or infinite.
        SourceError: an image cannot be read.
        StorageError: a part could not be written.
    """
    size = batch_size * max(1, PART // batch_size)
    starts = range(0, len(split), size)
    return torch.cat([_part(encoder, split.part(start, start + size), batch_size, folder, start) for start in starts])


def forget_features(folder: Path) -> None:
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
    except (OSError, SafetensorError, KeyError):  # not there yet, or not whole: looked at (again)
        return None
