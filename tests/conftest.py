"""Fixtures for material beside the project; tests that need it skip with a reason where it is absent."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookonce.cache.write.create import create_cache, prepare_seed
from lookonce.cache.write.shard_writer import ShardWriter
from lookonce.shared.images.jpeg_view import decode_view, encode_view
from lookonce.shared.patches import patchify
from lookonce.shared.views import ViewRecipe, pixel_digest
from lookonce.storage_schemas.arrays import JPEG, cache_arrays, target_shape
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.precision import KltPrecision, get_element_precision, get_precision
from lookonce.storage_schemas.recipe import DatasetIdentity, Recipe, TeacherIdentity
from lookonce.storage_schemas.tokens import AllTokens, TokenSubset

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_sessionstart() -> None:
    """Take SIGINT back: a run started in the background inherits it ignored, and so would every command under test.

    Tests kill processes and never cut the power, so files need not reach the disk: syncing them would take most of the
    time of a test on a busy disk. ``test_writer.py`` checks what is synced, and when.
    """
    os.environ["LOOKONCE_CATALOGUE"] = "none"  # tests of the catalogue set a folder of their own
    os.fsync = os.fstat  # type: ignore[assignment]  # fails as well for a descriptor that is not open
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real photographs and DeiT-Tiny weights (`../shared/data`, or LOOKONCE_DATA_DIR)."""
    folder = Path(os.environ.get("LOOKONCE_DATA_DIR", SHARED / "data"))
    if not folder.is_dir():
        pytest.skip(f"real test material not found at {folder} (set LOOKONCE_DATA_DIR)")
    return folder


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Numbers from the released code (`../shared/golden`, or LOOKONCE_GOLDEN_DIR)."""
    folder = Path(os.environ.get("LOOKONCE_GOLDEN_DIR", SHARED / "golden"))
    if not folder.is_dir():
        pytest.skip(f"golden numbers not found at {folder} (set LOOKONCE_GOLDEN_DIR)")
    return folder


@pytest.fixture(scope="session")
def make_manifest() -> Callable[..., Manifest]:
    """Build the manifest of a small synthetic cache; keyword arguments change its sizes."""

    def build(
        *,
        samples: int = 5,
        shard_size: int = 2,
        precision: str = "int8",
        layers: int = 2,
        width: int = 6,
        store_pixels: bool = True,
        moments: Any = "float32",
        jpeg_quality: int | None = None,
        container: Any = "zarr",
        view_size: int = 32,
        patch_size: int = 8,
        tokens: TokenSubset | None = None,
        listing: str = "1",
    ) -> Manifest:
        view = ViewRecipe(size=view_size, jpeg_quality=jpeg_quality)
        teacher = TeacherIdentity(
            name="timm:tiny",
            weights_digest="sha256:" + "0" * 64,
            blocks=tuple(range(5 - layers, 5)),
            block_count=4,
            width=width,
            input_size=view_size,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            compute_precision="fp32",
        )
        recipe = Recipe(
            teacher=teacher,
            dataset=DatasetIdentity(samples=samples, digest="sha256:" + listing * 64),
            view=view.document(),
            patch_size=patch_size,
            tokens=tokens or AllTokens(),
        )
        arrays = cache_arrays(recipe, precision=precision, store_pixels=store_pixels, moments=moments)
        return Manifest(
            recipe=recipe,
            encoding=Encoding(precision=precision, parameters=_parameters(recipe, precision)),
            container=container,
            shard_size=shard_size,
            arrays=arrays,
            classes=("a", "b"),
            created_with={"lookonce": "test"},
        )

    return build


def _parameters(recipe: Recipe, precision: str) -> dict[str, Any]:
    """Of a precision that is calibrated on normal values."""
    codec, shape, generator = get_precision(precision), target_shape(recipe), np.random.default_rng(0)
    if isinstance(codec, KltPrecision):
        views = generator.normal(size=(8, shape.patches + 1, shape.layers, shape.channels)).astype(np.float32)
        return codec.calibrate_views([views], shape)
    values = generator.normal(size=(64, shape.layers, shape.channels)).astype(np.float32)
    return get_element_precision(precision).calibrate(values)


@pytest.fixture(scope="session")
def fill_cache() -> Callable[..., dict[int, dict[str, Any]]]:
    """Write a complete synthetic cache at a path; return the encoded arrays by seed and name."""

    def fill(
        root: Path,
        manifest: Manifest,
        *,
        seeds: tuple[int, ...] = (0,),
        holes: tuple[int, ...] = (),
        make_arrays: Callable[[Manifest, int], dict[str, Any]] | None = None,
        images: Sequence[int] | None = None,
    ) -> dict[int, dict[str, Any]]:
        create_cache(root, manifest)
        images = range(manifest.samples) if images is None else images  # which image lies in each row
        keys = [f"c{image % 2}/näme-{image:03d}.jpg" for image in images]
        labels = [image % 2 for image in images]
        written: dict[int, dict[str, Any]] = {}
        for seed in seeds:
            prepare_seed(root, manifest, seed)
            made = make_arrays(manifest, seed) if make_arrays else {}
            written[seed] = {**_synthetic_arrays(manifest, np.random.default_rng(seed)), **made}
            written[seed].update(key=keys, label=labels)
            for shard in range(manifest.shard_count):
                rows = manifest.shard_rows(shard)
                with ShardWriter(
                    root,
                    manifest,
                    seed=seed,
                    shard=shard,
                    keys=keys[rows.start : rows.stop],
                    labels=labels[rows.start : rows.stop],
                ) as writer:
                    for row in rows:
                        if row in holes:
                            writer.leave_out(row, "unreadable")
                        else:
                            one = {
                                name: written[seed][name][row : row + 1] for name in set(written[seed]) - _NOT_STREAMED
                            }
                            writer.append([row], one)
                    writer.commit(statistics={"feature_norm": 1.0}, versions={"lookonce": "test"})
        return written

    return fill


_NOT_STREAMED = {"key", "label"}


def _synthetic_arrays(manifest: Manifest, generator: np.random.Generator) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for spec in manifest.arrays:
        shape = (manifest.samples, *spec.sample_shape)
        if spec.name in _NOT_STREAMED:
            continue
        if spec.name == JPEG:
            arrays[spec.name] = np.empty(shape, dtype=object)
        elif spec.name == "patch_ids":
            drawn = generator.random((manifest.samples, manifest.recipe.patches)).argsort(axis=1)
            arrays[spec.name] = np.sort(drawn[:, : spec.sample_shape[0]], axis=1).astype(spec.dtype)
        elif spec.dtype.startswith("float"):
            arrays[spec.name] = generator.random(shape).astype(spec.dtype)
        else:
            arrays[spec.name] = generator.integers(1, 200, shape).astype(spec.dtype)
    if JPEG in arrays:
        side, patch = manifest.recipe.view_size, manifest.recipe.patch_size
        for row in range(manifest.samples):
            coarse = generator.integers(0, 256, (side // patch, side // patch, 3), dtype=np.uint8)
            arrays[JPEG][row] = encode_view(coarse.repeat(patch, axis=0).repeat(patch, axis=1), 90)
            arrays["pixel_digest"][row] = pixel_digest(patchify(decode_view(arrays[JPEG][row], side), patch))
    return arrays


@pytest.fixture(scope="session")
def write_training_cache(
    make_manifest: Callable[..., Manifest], fill_cache: Callable[..., dict[int, dict[str, Any]]]
) -> Callable[..., Path]:
    """Write a cache that timm's ``test_vit`` (patch 16, 6 blocks) learns from: 11 samples, 16 patches, blocks 3, 4."""

    def write(
        root: Path,
        *,
        seeds: tuple[int, ...] = (0, 1),
        holes: tuple[int, ...] = (),
        make_arrays: Any = None,
        images: Sequence[int] | None = None,
        **changes: Any,
    ) -> Path:
        sizes: dict[str, Any] = {"samples": 11, "shard_size": 4, "view_size": 64, "patch_size": 16, **changes}
        fill_cache(root, make_manifest(**sizes), seeds=seeds, holes=holes, make_arrays=make_arrays, images=images)
        return root

    return write


@pytest.fixture
def training_cache(tmp_path: Path, write_training_cache: Callable[..., Path]) -> Callable[..., Path]:
    """Write the same into a folder of the test's own, by name."""
    return lambda name="cache", **changes: write_training_cache(tmp_path / name, **changes)
