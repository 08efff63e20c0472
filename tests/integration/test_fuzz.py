"""Random damage to a small cache: full verification finds all of it, and a reader raises nothing but our errors."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.whole_views import stored_views
from lookonce.cache.verify.verification import verify_cache
from lookonce.shared.errors import LookonceError

CONTAINERS = ["zarr", "webdataset"]
KINDS: dict[str, dict[str, Any]] = {
    "int4": {"precision": "int4"},
    "klt1": {"precision": "klt1"},
    "jpeg": {"precision": "int4", "jpeg_quality": 90, "moments": "float16"},
}
PRECISIONS = list(KINDS)


@pytest.fixture
def cache(make_manifest, fill_cache, tmp_path: Path) -> Callable[[str, str], Path]:
    def build(container: str, precision: str) -> Path:
        manifest = make_manifest(samples=5, shard_size=2, container=container, **KINDS[precision])
        fill_cache(tmp_path / "c", manifest, seeds=(0, 3), holes=(1,))
        return tmp_path / "c"

    return build


def read_all(root: Path) -> str | None:
    """Read everything with both ways of checking; the last named error, None when all went well. Others escape."""
    named = None
    for check in ("never", "first-use"):
        try:
            reader = CacheReader(root, check=check)
            for seed in reader.seeds:
                for name in ("key", "label", "view"):
                    reader.column(name, seed)
                rows = reader.rows(seed)
                for spec in reader.manifest.arrays:
                    if spec.chunking == "sample":
                        reader.read(spec.name, [seed] * len(rows), rows)
                if (views := stored_views(reader)) is not None:
                    for row in rows:
                        views.patches(seed, int(row))
                tokens = np.tile(np.arange(2), (len(rows), 1))
                reader.read_targets([seed] * len(rows), rows, tokens)
        except LookonceError as error:
            named = str(error)
    return named


def damage(root: Path, generator: random.Random) -> tuple[str, Callable[[], None]]:
    """Flip a byte of, cut, or swap with another any file of the cache; what was done, and how to undo it."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    path = generator.choice(files)
    before = path.read_bytes()
    kind = generator.choices(["flip", "cut", "swap"], [6, 2, 2])[0]
    name = path.relative_to(root).as_posix()
    if kind == "swap":
        other = generator.choice([file for file in files if file.read_bytes() != before])
        content = other.read_bytes()
        path.write_bytes(content)
        other.write_bytes(before)
        return f"{name} and {other.relative_to(root)} swapped", lambda: _restore({path: before, other: content})
    if kind == "cut":
        length = generator.randrange(len(before))
        path.write_bytes(before[:length])
        return f"{name} cut to {length} bytes", lambda: _restore({path: before})
    position, mask = generator.randrange(len(before)), generator.randrange(1, 256)
    changed = bytearray(before)
    changed[position] ^= mask
    path.write_bytes(changed)
    return f"{name}: byte {position} of {len(before)} changed by {mask:#x}", lambda: _restore({path: before})


def _restore(files: dict[Path, bytes]) -> None:
    for path, content in files.items():
        path.write_bytes(content)


def fuzz(root: Path, rounds: int, seed: int) -> None:
    generator = random.Random(seed)
    assert verify_cache(root, full=True, workers=1).whole
    assert read_all(root) is None
    for _ in range(rounds):
        what, undo = damage(root, generator)
        report = verify_cache(root, full=True, workers=1)
        assert report.findings, f"not found: {what}"
        json.dumps(report.document())
        read_all(root)
        undo()
    assert verify_cache(root, full=True, workers=1).whole


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_some_damages(cache: Callable[[str, str], Path], container: str, precision: str) -> None:
    fuzz(cache(container, precision), 40, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_1000_damages(cache: Callable[[str, str], Path], container: str, precision: str) -> None:
    fuzz(cache(container, precision), 1000, seed=2)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_damage_to_an_object_is_seen_by_a_reader_that_checks(
    cache: Callable[[str, str], Path], container: str, precision: str
) -> None:
    root, generator = cache(container, precision), random.Random(3)
    objects = sorted(path for path in root.glob("seed-*/**/*") if path.is_file() and path.name != "zarr.json")
    objects += sorted(root.glob("encoding/*"))
    assert len(list(root.glob("encoding/*"))) == (precision == "klt1")
    for path in objects:
        before = bytearray(path.read_bytes())
        before[generator.randrange(len(before))] ^= 1
        content = path.read_bytes()
        path.write_bytes(before)
        assert read_all(root) is not None, path
        path.write_bytes(content)


@pytest.mark.parametrize("rounds", [100, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_any_damage_to_the_object_of_an_encoding_is_named(cache: Callable[[str, str], Path], rounds: int) -> None:
    root, generator = cache("zarr", "klt1"), random.Random(4)
    (path,) = root.glob("encoding/*")
    whole = path.read_bytes()
    for _ in range(rounds):
        content = bytearray(whole)
        if generator.random() < 0.2:
            del content[generator.randrange(len(content)) :]
        else:
            content[generator.randrange(len(content))] ^= generator.randrange(1, 256)
        path.write_bytes(content)
        (finding,) = verify_cache(root, workers=1).findings
        assert finding.path == path.relative_to(root).as_posix()
        assert finding.kind == "damaged"
        named = read_all(root)
        assert named is not None
        assert str(path.relative_to(root)) in named
    path.write_bytes(whole)
    assert read_all(root) is None
