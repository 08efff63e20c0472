"""Reads the samples that a picture shows, ready to draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.whole_views import stored_views
from lookonce.shared.errors import IncompleteCacheError
from lookonce.shared.masking import draw_patches, mask_noise, visible_count
from lookonce.shared.patches import unpatchify
from lookonce.storage_schemas.recipe import Recipe
from lookonce.storage_schemas.tokens import VisibleTokens

# S: shown samples, N: patches of a view, g: patches along a side (N = g * g), C: channels, P: view side in pixels.
Floats = NDArray[np.float32]

_NOT_STORED = 168
"""Grey level, 0 to 255, of patches that a token subset leaves out."""


@dataclass(frozen=True, kw_only=True)
class ShownSamples:
    """Content of the rows of a picture."""

    titles: tuple[str, ...]
    """Key, seed and label name of each sample."""
    views: NDArray[np.uint8] | None
    """uint8 (S, P, P, 3); None if the cache stores no views."""
    importance: Floats
    """float32 (S, g, g): class attention divided by its mean over the view; 1 is an average patch."""
    visible: NDArray[np.bool_]
    """bool (S, g, g): patches that are visible to the student."""
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
    recipe, patches = manifest.recipe, manifest.recipe.patches
    stored_Sk = _stored_ids(reader, seeds, rows)
    visible_SN = _visible(recipe, importance_SN, stored_Sk, mask_noise(0, 0, keys, seeds, patches), mask_ratio)
    grid = (len(rows), math.isqrt(patches), math.isqrt(patches))
    relative_SN = importance_SN / np.maximum(importance_SN.mean(axis=1, keepdims=True), 1e-12)
    views = None
    if (whole := stored_views(reader)) is not None:
        pairs = zip(seeds, rows, strict=True)
        views = unpatchify(np.stack([whole.patches(seed, row) for seed, row in pairs]), recipe.patch_size)
    elif manifest.stores_pixels:
        pixels_SNp = _placed(reader.read("pixels", seeds, rows), stored_Sk, patches, _NOT_STORED)
        views = unpatchify(pixels_SNp.astype(np.uint8), recipe.patch_size)
    components_Sk3 = principal_components(_last_block(reader, seeds, rows))
    return ShownSamples(
        titles=tuple(
            _title(key, seed, _label_name(manifest.classes, label))
            for key, seed, label in zip(keys, seeds, labels, strict=True)
        ),
        views=views,
        importance=relative_SN.reshape(grid),
        visible=visible_SN.reshape(grid),
        components=_placed(components_Sk3, stored_Sk, patches, _NOT_STORED / 255).reshape(*grid, 3),
    )


def principal_components(features_SNC: Floats) -> Floats:
    """First three principal components over all patches, each scaled to 0..1 by its percentiles 1 and 99.

    The sign of a component is chosen such that its largest weight is positive.

    Args:
        features_SNC: float32, targets of one block without the class token.

    Returns:
        float32 (S, N, 3); missing components are 0.5.
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


def _stored_ids(reader: CacheReader, seeds: list[int], rows: list[int]) -> NDArray[np.int64]:
    """Numbers of the stored patches, (S, k)."""
    recipe = reader.manifest.recipe
    if recipe.tokens.keeps_all:
        return np.broadcast_to(np.arange(recipe.patches), (len(rows), recipe.patches))
    return reader.read("patch_ids", seeds, rows).astype(np.int64)


def _visible(
    recipe: Recipe, importance_SN: Floats, stored_Sk: NDArray[np.int64], noise_SN: NDArray[np.float64], ratio: float
) -> NDArray[np.bool_]:
    """The patches of an attentive mask among the stored ones; all stored ones if extraction drew the mask."""
    importance_Sk = np.take_along_axis(importance_SN, stored_Sk, axis=1)
    noise_Sk = np.take_along_axis(noise_SN, stored_Sk, axis=1)
    shown = stored_Sk.shape[1]
    if not isinstance(recipe.tokens, VisibleTokens):
        shown = min(shown, visible_count(recipe.patches, ratio))
    positions_Sv = draw_patches("attentive", importance_Sk, noise_Sk, shown)
    visible_SN = np.zeros(importance_SN.shape, dtype=bool)
    np.put_along_axis(visible_SN, np.take_along_axis(stored_Sk, positions_Sv, axis=1), True, axis=1)
    return visible_SN


def _placed(values_Skc: NDArray[Any], stored_Sk: NDArray[np.int64], patches: int, fill: float) -> Floats:
    """Values of the stored patches at their positions among all patches, float32 (S, N, c); ``fill`` elsewhere."""
    placed_SNc = np.full((len(values_Skc), patches, values_Skc.shape[2]), fill, dtype=np.float32)
    np.put_along_axis(placed_SNc, stored_Sk[..., None], values_Skc.astype(np.float32), axis=1)
    return placed_SNc


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
    return reader.read_targets(seeds, rows)[:, 1:, last]  # token 0 is the class token


def _label_name(classes: tuple[str, ...], label: int) -> str:
    if 0 <= label < len(classes):
        return classes[label]
    return str(label) if label >= 0 else ""


def _title(key: str, seed: int, label_name: str, most: int = 48) -> str:
    printable = "".join(letter if letter.isprintable() else "?" for letter in key)
    if len(printable) > most:  # the end of a key is more specific than its folder
        printable = f"…{printable[-(most - 1) :]}"
    return f"{printable}  ·  seed {seed}" + (f"  ·  {label_name}" if label_name else "")
