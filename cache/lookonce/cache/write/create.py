"""Creates a cache folder, or continues an existing one of the same recipe."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

from lookonce.cache.containers import container_of
from lookonce.cache.layout import CacheLayout
from lookonce.shared.errors import BusyError, CacheError, RecipeMismatchError
from lookonce.shared.faults.os_errors import ABSENT, access_error
from lookonce.shared.files.atomic import TEMPORARY_MARK, json_bytes, write_bytes, write_json
from lookonce.shared.files.lock import exclusive_folder
from lookonce.shared.files.own_folder import require_own_folder
from lookonce.storage_schemas.manifest import FILE_NAME, Manifest
from lookonce.storage_schemas.recipe import Recipe, document_differences


def existing_manifest(root: Path) -> Manifest | None:
    """The manifest at ``root``, or None if there is no cache yet.

    Raises:
        CacheError: ``root`` is a file, or a folder that contains other files and no cache.
        AccessError: the operating system does not list the folder.
        SchemaError: the manifest is invalid.
    """
    if require_own_folder(root, kind="a lookonce cache", marker=FILE_NAME, error=CacheError):
        return CacheLayout(root).load_manifest()
    return None


def check_same_recipe(
    root: Path | str,
    found: Recipe,
    wanted: Recipe,
    *,
    advice: str = "choose another --out, or the arguments that made this cache",
) -> None:
    """Refuse to continue a cache that another recipe made.

    Args:
        root: the cache folder or URL.
        found: recipe of the cache.
        wanted: recipe of the request.
        advice: what to do, for the message.

    Raises:
        RecipeMismatchError: the recipes differ; the message lists each field with both values.
    """
    differences = document_differences(found.document(), wanted.document())
    if differences:
        listed = "; ".join(f"{path}: cache has {ours!r}, this run has {theirs!r}" for path, ours, theirs in differences)
        raise RecipeMismatchError(
            f"{root}: this cache was made by another recipe ({listed}); it is left untouched: {advice}"
        )


def check_same_storage(
    root: Path | str, found: Manifest, wanted: Manifest, *, than: str, advice: str = "choose another folder"
) -> None:
    """Refuse to continue a cache of the same recipe whose objects are stored in another way.

    Args:
        root: the cache folder or URL.
        found: manifest of the cache.
        wanted: manifest of the request.
        than: what makes the request, for the message.
        advice: what to do, for the message.

    Raises:
        CacheError: container, precision, calibration, shard size or arrays differ.
    """
    pairs = {
        "container": (found.container, wanted.container),
        "precision": (found.encoding.precision, wanted.encoding.precision),
        "calibration": (found.encoding.digest, wanted.encoding.digest),
        "shard size": (found.shard_size, wanted.shard_size),
        "arrays": (found.arrays, wanted.arrays),
    }
    for name, (there, asked) in pairs.items():
        if there != asked:
            raise CacheError(
                f"{root}: the cache there has another {name} ({there}) than {than} ({asked}); "
                f"it is left untouched: {advice}"
            )


def create_cache(root: Path, manifest: Manifest) -> None:
    """Write the manifest of a new cache, by rename, after the object of its encoding if it has one."""
    encoding = manifest.encoding
    if encoding.apart:
        write_bytes(root / encoding.object_path, encoding.object_content())
    write_json(CacheLayout(root).manifest_file, manifest.document())


def seed_metadata(root: Path, manifest: Manifest, seed: int) -> dict[Path, dict[str, Any]]:
    """The JSON files that a seed has beside its shards (zarr metadata), with their expected documents."""
    documents = container_of(manifest).seed_documents(manifest, seed)
    return {root / path: document for path, document in documents.items()}


def prepare_seed(root: Path, manifest: Manifest, seed: int) -> None:
    """Write those metadata files of a seed that are missing or differ."""
    for path, document in seed_metadata(root, manifest, seed).items():
        if not _contains(path, document):
            write_json(path, document)


def _contains(path: Path, document: dict[str, Any]) -> bool:
    try:
        return path.read_bytes() == json_bytes(document)
    except ABSENT:
        return False
    except OSError as error:
        raise access_error(error, path) from error


def remove_temporary_files(root: Path) -> int:
    """Delete the temporary files of killed writers; call only while holding the lock. Returns their number."""
    removed = 0
    for path in root.rglob(f"*{TEMPORARY_MARK}*"):
        with contextlib.suppress(OSError):
            path.unlink()
            removed += 1
    return removed


@contextlib.contextmanager
def exclusive_writer(root: Path) -> Generator[None, None, None]:
    """Hold the cache's lock. The kernel releases it when the process ends, for whatever reason.

    Raises:
        BusyError: another extraction is writing to this cache.
        StorageError: the folder cannot be created or written.
    """
    busy = BusyError(
        f"{root}: another extraction is writing to this cache; wait for it to end, then run again "
        "(it resumes), or choose another --out"
    )
    with exclusive_folder(root, busy):
        yield
