"""A cache of CLIP-B/16 shape with random content: what the reading and writing benchmarks run on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lookonce.cache.write.create import create_cache, prepare_seed
from lookonce.cache.write.shard_writer import ShardWriter
from lookonce.shared.views import ViewRecipe
from lookonce.storage_schemas.arrays import ArraySpec, cache_arrays, target_shape
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.precision import KltPrecision, get_element_precision, get_precision
from lookonce.storage_schemas.recipe import DatasetIdentity, Recipe, TeacherIdentity
from lookonce.storage_schemas.tokens import AllTokens

LAYERS, WIDTH, PATCHES, PATCH = 5, 768, 196, 16


def clip_manifest(samples: int, shard_size: int, *, precision: str = "int8", container: Any = "zarr") -> Manifest:
    """Manifest of a CLIP-B/16 cache: 197 tokens, last 5 of 12 blocks, 768 channels, pixels stored."""
    teacher = TeacherIdentity(
        name="synthetic",
        weights_digest="sha256:" + "0" * 64,
        blocks=(8, 9, 10, 11, 12),
        block_count=12,
        width=WIDTH,
        input_size=224,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        compute_precision="fp32",
    )
    recipe = Recipe(
        teacher=teacher,
        dataset=DatasetIdentity(samples=samples, digest="sha256:" + "1" * 64),
        view=ViewRecipe().document(),
        patch_size=PATCH,
        tokens=AllTokens(),
    )
    arrays = cache_arrays(recipe, precision=precision, store_pixels=True)
    return Manifest(
        recipe=recipe,
        encoding=Encoding(precision=precision, parameters=_parameters(recipe, precision)),
        container=container,
        shard_size=shard_size,
        arrays=arrays,
        classes=(),
        created_with={},
    )


def _parameters(recipe: Recipe, precision: str) -> dict[str, Any]:
    codec = get_precision(precision)
    if isinstance(codec, KltPrecision):
        return codec.stand_in(target_shape(recipe))
    values = np.random.default_rng(0).normal(size=(64, LAYERS, WIDTH)).astype(np.float32)
    return get_element_precision(precision).calibrate(values)


def random_batches(manifest: Manifest, batch: int, distinct: int = 4) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """(rows, arrays) of every batch of every shard in order; ``distinct`` random batches take turns."""
    generator = np.random.default_rng(1)
    streamed = [spec for spec in manifest.arrays if spec.name not in ("key", "label")]
    contents = [{spec.name: _random(spec, batch, generator) for spec in streamed} for _ in range(distinct)]
    turn = 0
    for shard in range(manifest.shard_count):
        rows = manifest.shard_rows(shard)
        for start in range(rows.start, rows.stop, batch):
            chosen = list(range(start, min(start + batch, rows.stop)))
            content = contents[turn % distinct]
            yield chosen, {name: values[: len(chosen)] for name, values in content.items()}
            turn += 1


def _random(spec: ArraySpec, batch: int, generator: np.random.Generator) -> Any:
    """Random bytes, as targets are; float32 arrays are importance, means and deviations: positive numbers."""
    shape = (batch, *spec.sample_shape)
    if spec.numpy_dtype == np.float32:
        return generator.random(shape, dtype=np.float32)
    raw = generator.integers(0, 255, (*shape, spec.numpy_dtype.itemsize), dtype=np.uint8)
    return raw.view(spec.numpy_dtype).reshape(shape)


Batches = Sequence[tuple[list[int], dict[str, Any]]]


def write_cache(root: Path, manifest: Manifest, contents: Batches | None = None) -> None:
    """Write a whole cache of one seed, 0, with our writer; random content unless given."""
    create_cache(root, manifest)
    prepare_seed(root, manifest, 0)
    batches = iter(contents or random_batches(manifest, 32))
    for shard in range(manifest.shard_count):
        rows = manifest.shard_rows(shard)
        keys, labels = [f"{row:08d}.jpg" for row in rows], [0] * len(rows)
        with ShardWriter(root, manifest, seed=0, shard=shard, keys=keys, labels=labels) as writer:
            done = 0
            while done < len(rows):
                chosen, values = next(batches)
                writer.append(chosen, values)
                done += len(chosen)
            writer.commit(statistics={}, versions={})
