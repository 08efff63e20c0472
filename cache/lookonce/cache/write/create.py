"""Creating a cache folder, or joining the one that is there when it was made by the same recipe."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

from lookonce.cache.containers import container_of
from lookonce.cache.layout import CacheLayout
from lookonce.shared.errors import CacheError, RecipeMismatchError
from lookonce.shared.faults.os_errors import ABSENT, access_error
from lookonce.shared.files.atomic import TEMPORARY_MARK, json_bytes, write_json
from lookonce.shared.files.lock import LOCK_FILES, exclusive_folder
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.recipe import Recipe, document_differences


def existing_manifest(root: Path) -> Manifest | None:
    """The manifest at ``root``, or None when there is no cache yet.

    Raises:
        CacheError: ``root`` is a file, or a folder with other content that is not a cache.
        SchemaError: the manifest is not valid.
    """
    layout = CacheLayout(root)
    if layout.manifest_file.is_file():
        return layout.load_manifest()
    if root.exists() and not root.is_dir():
        raise CacheError(f"{root}: is a file; --out needs a folder that is new, empty, or a lookonce cache")
    foreign = sorted(child.name for child in root.iterdir() if child.name not in LOCK_FILES) if root.exists() else []
    foreign = [name for name in foreign if TEMPORARY_MARK not in name]
    if foreign:
        raise CacheError(
            f"{root}: holds other files ({', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''}) and no "
            "manifest.json; --out needs a folder that is new, empty, or a lookonce cache"
        )
    return None


def check_same_recipe(
    root: Path,
    found: Recipe,
    wanted: Recipe,
    *,
    advice: str = "choose another --out, or the arguments it was made with",
) -> None:
    """Refuse to continue a cache that another recipe made.

    Args:
        root: the cache folder.
        found: its recipe.
        wanted: recipe of what is asked for.
        advice: what to do about it, for the message.

    Raises:
        RecipeMismatchError: the recipes differ; the message lists each field with both values.
    """
    differences = document_differences(found.document(), wanted.document())
    if differences:
        listed = "; ".join(f"{path}: cache has {ours!r}, this run has {theirs!r}" for path, ours, theirs in differences)
        raise RecipeMismatchError(
            f"{root}: this cache was made by another recipe ({listed}); it is left untouched: {advice}"
        )


def create_cache(root: Path, manifest: Manifest) -> None:
    """Write the manifest of a new cache, by rename."""
    write_json(CacheLayout(root).manifest_file, manifest.document())


def seed_metadata(root: Path, manifest: Manifest, seed: int) -> dict[Path, dict[str, Any]]:
    """The JSON files that a seed has beside its shards (zarr metadata), and what each must hold."""
    documents = container_of(manifest).seed_documents(manifest, seed)
    return {root / path: document for path, document in documents.items()}


def prepare_seed(root: Path, manifest: Manifest, seed: int) -> None:
    """Write a seed's metadata where it is missing or differs by a byte."""
    for path, document in seed_metadata(root, manifest, seed).items():
        if not _holds(path, document):
            write_json(path, document)


def _holds(path: Path, document: dict[str, Any]) -> bool:
    try:
        return path.read_bytes() == json_bytes(document)
    except ABSENT:
        return False
    except OSError as error:
        raise access_error(error, path) from error


def remove_temporary_files(root: Path) -> int:
    """Delete what killed writers left behind; call only while holding the lock. Returns how many files."""
    removed = 0
    for path in root.rglob(f"*{TEMPORARY_MARK}*"):
        with contextlib.suppress(OSError):
            path.unlink()
            removed += 1
    return removed


@contextlib.contextmanager
def exclusive_writer(root: Path) -> Generator[None, None, None]:
    """Hold the cache's lock, which the kernel releases when the process dies, however it dies.

    Raises:
        CacheError: another extraction is writing to this cache.
        StorageError: the folder cannot be made or written.
    """
    busy = CacheError(
        f"{root}: another extraction is writing to this cache; wait for it to end, then run again "
        "(it resumes), or choose another --out"
    )
    with exclusive_folder(root, busy):
        yield
