"""The samples a picture shows, read from a cache and made ready to draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.layout import CacheLayout
from lookonce.cache.reader import CacheReader
from lookonce.shared.errors import IncompleteCacheError
from lookonce.shared.masking import mask_noise, visible_patches
from lookonce.shared.patches import unpatchify

# S: shown samples, N: patches of a view, g: patches along a side (N = g * g), C: channels, P: view side in pixels.
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ShownSamples:
    """What the rows of a picture show."""

    titles: tuple[str, ...]
    """Key, seed and label name of each sample."""
    views: NDArray[np.uint8] | None
    """uint8 (S, P, P, 3); None when the cache stores none."""
    importance: Floats
    """float32 (S, g, g): class attention over its mean in the same view; 1 is a patch of average importance."""
    visible: NDArray[np.bool_]
    """bool (S, g, g): patches the student would see."""
    components: Floats
    """float32 (S, g, g, 3): principal components of the last stored block's targets as RGB, 0..1."""


def shown_samples(reader: CacheReader, count: int, mask_ratio: float) -> ShownSamples:
    """Read ``count`` samples evenly spread over the rows, with seeds rotating.

    Raises:
        IncompleteCacheError: every sample is a hole.
        IntegrityError: an object is damaged.
    """
    seeds, rows = _spread(reader, count)
    manifest = reader.manifest
    keys = _column(reader, "key", seeds, rows)
    labels = [int(label) for label in _column(reader, "label", seeds, rows)]
    importance_SN = reader.read("importance", seeds, rows)
    patches = manifest.recipe.patches
    noise = mask_noise(0, 0, keys, seeds, patches)
    visible_Sk = visible_patches("attentive", importance_SN, noise, mask_ratio)
    visible_SN = np.zeros(importance_SN.shape, dtype=bool)
    np.put_along_axis(visible_SN, visible_Sk, True, axis=1)
    grid = (len(rows), math.isqrt(patches), math.isqrt(patches))
    relative_SN = importance_SN / np.maximum(importance_SN.mean(axis=1, keepdims=True), 1e-12)
    views = (
        unpatchify(reader.read("pixels", seeds, rows), manifest.recipe.patch_size) if manifest.stores_pixels else None
    )
    return ShownSamples(
        titles=tuple(
            _title(key, seed, _label_name(manifest.classes, label))
            for key, seed, label in zip(keys, seeds, labels, strict=True)
        ),
        views=views,
        importance=relative_SN.reshape(grid),
        visible=visible_SN.reshape(grid),
        components=principal_components(_last_block(reader, seeds, rows)).reshape(*grid, 3),
    )


def principal_components(features_SNC: Floats) -> Floats:
    """First three principal components over all patches together, each scaled to 0..1 by its percentiles 1 and 99.

    The sign of a component, which the decomposition leaves open, is that which makes its largest weight positive.

    Args:
        features_SNC: float32, targets of one block without the class token.

    Returns:
        float32 (S, N, 3); components that the features do not have are 0.5.
    """
    samples, patches, channels = features_SNC.shape
    rows = features_SNC.reshape(-1, channels).astype(np.float64)
    rows -= rows.mean(axis=0)
    _, weights = np.linalg.eigh(rows.T @ rows)  # ascending eigenvalues
    weights = weights[:, ::-1][:, :3]
    largest = np.take_along_axis(weights, np.abs(weights).argmax(axis=0, keepdims=True), axis=0)
    projected = rows @ (weights * np.where(largest < 0, -1.0, 1.0))
    low, high = np.percentile(projected, [1, 99], axis=0)
    scaled = np.full((len(rows), 3), 0.5)
    spread = high - low > 1e-9
    scaled[:, : len(spread)][:, spread] = ((projected - low) / np.where(spread, high - low, 1))[:, spread].clip(0, 1)
    return scaled.reshape(samples, patches, 3).astype(np.float32)


def whole_seeds(layout: CacheLayout, shard_count: int) -> tuple[int, ...]:
    """Seeds of which every shard has a receipt."""
    return tuple(seed for seed in layout.seeds() if set(layout.receipted_shards(seed)) >= set(range(shard_count)))


def _spread(reader: CacheReader, count: int) -> tuple[list[int], list[int]]:
    by_seed = {seed: reader.rows(seed) for seed in reader.seeds}
    seeds, rows = [], []
    for position in range(count):
        seed = reader.seeds[position % len(reader.seeds)]
        present = by_seed[seed]
        if len(present):
            seeds.append(seed)
            rows.append(int(present[int((position + 0.5) * len(present) / count)]))
    if not rows:
        raise IncompleteCacheError(f"{reader.root}: every sample is a hole, so there is nothing to draw")
    return seeds, rows


def _column(reader: CacheReader, name: str, seeds: list[int], rows: list[int]) -> list[Any]:
    columns = {seed: reader.column(name, seed) for seed in set(seeds)}
    return [columns[seed][row] for seed, row in zip(seeds, rows, strict=True)]


def _last_block(reader: CacheReader, seeds: list[int], rows: list[int]) -> Floats:
    last = len(reader.manifest.recipe.teacher.blocks) - 1
    stored = reader.read("targets", seeds, rows)[:, 1:, last:]  # token 0 is the class token
    return reader.decode(stored, [last])[:, :, 0]


def _label_name(classes: tuple[str, ...], label: int) -> str:
    if 0 <= label < len(classes):
        return classes[label]
    return str(label) if label >= 0 else ""


def _title(key: str, seed: int, label_name: str, most: int = 48) -> str:
    printable = "".join(letter if letter.isprintable() else "?" for letter in key)
    if len(printable) > most:  # the end of a key tells more than its folder
        printable = f"…{printable[-(most - 1) :]}"
    return f"{printable}  ·  seed {seed}" + (f"  ·  {label_name}" if label_name else "")
