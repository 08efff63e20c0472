"""Which shards count: the one rule by which whoever writes a cache resumes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lookonce.cache.advice import RESUME
from lookonce.cache.containers import container_of
from lookonce.cache.layout import CacheLayout
from lookonce.shared.errors import IntegrityError, SchemaError
from lookonce.shared.faults.os_errors import ABSENT, access_error
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt, StoredObject

STATUS_THREADS = 16
"""Network file systems answer many at once."""

STATUSES_A_TASK = 64


def receipt_identity(manifest: Manifest, shard: int) -> dict[str, object]:
    """What every receipt of a cache's shard says, by field.

    Rows are among it: shards of another size, of a cache of the same content, would give a row another one's values.
    """
    rows = manifest.shard_rows(shard)
    return {
        "fingerprint": manifest.recipe.fingerprint,
        "encoding": manifest.encoding.digest,
        "first_sample": rows.start,
        "samples": len(rows),
    }


def misfits(receipt: Receipt, manifest: Manifest) -> dict[str, tuple[object, object]]:
    """What a receipt of one of a cache's shards says otherwise than the manifest: field to (found, expected)."""
    expected = receipt_identity(manifest, receipt.shard)
    found = {field: getattr(receipt, field) for field in expected}
    return {field: (found[field], value) for field, value in expected.items() if found[field] != value}


def is_committed(layout: CacheLayout, manifest: Manifest, seed: int, shard: int) -> bool:
    """Whether a shard has a receipt of this cache that names all its objects, each there with its size.

    Digests are ``feature-cache verify``'s work.

    Raises:
        AccessError: the operating system does not give a receipt or an object out: it may be sound, and must stay.
    """
    if shard >= manifest.shard_count:
        return False
    try:
        receipt = layout.load_receipt(seed, shard)
    except SchemaError:
        return False
    if misfits(receipt, manifest):
        return False
    named = {stored.array: stored.path for stored in receipt.objects}
    if named != container_of(manifest).object_paths(manifest, seed, shard):
        return False
    return all(_has_size(layout.root / stored.path, stored.bytes) for stored in receipt.objects)


def remaining_shards(
    layout: CacheLayout, manifest: Manifest, seeds: Sequence[int], *, remove_invalid_receipts: bool
) -> list[tuple[int, int]]:
    """(seed, shard) pairs of a cache that are not committed, by seed, then shard; see ``is_committed``.

    Args:
        layout: of the cache.
        manifest: of the cache.
        seeds: augmentation seeds.
        remove_invalid_receipts: for callers that write the remaining shards: an invalid receipt must not outlive the
            decision to write its shard again.

    Raises:
        AccessError: a receipt or an object cannot be accessed; no receipt is removed because of that.
    """
    remaining: list[tuple[int, int]] = []
    for seed in seeds:
        committed: set[int] = set()
        for shard in layout.receipted_shards(seed):
            if is_committed(layout, manifest, seed, shard):
                committed.add(shard)
            elif remove_invalid_receipts:
                layout.receipt_file(seed, shard).unlink(missing_ok=True)
        remaining.extend((seed, shard) for shard in range(manifest.shard_count) if shard not in committed)
    return remaining


def require_sizes(root: Path, receipts: Iterable[Receipt]) -> None:
    """Look whether every object that receipts name is there with its size; digests are checked when they are read.

    A second for ten thousand objects on a local disk.

    Args:
        root: the cache folder.
        receipts: of it.

    Raises:
        IntegrityError: objects are missing or have another size; names the first.
        AccessError: the operating system does not tell of one.
    """
    objects = [stored for receipt in receipts for stored in receipt.objects]
    parts = [objects[start : start + STATUSES_A_TASK] for start in range(0, len(objects), STATUSES_A_TASK)]
    with ThreadPoolExecutor(STATUS_THREADS, thread_name_prefix="lookonce-size") as threads:
        wrong = [one for found in threads.map(lambda part: _wrong_sizes(root, part), parts) for one in found]
    if wrong:
        stored, size = wrong[0]
        there = "there is no such file" if size is None else f"{size} bytes"
        more = f"; so it is with {len(wrong)} of {len(objects)} objects" if len(wrong) > 1 else ""
        raise IntegrityError(
            f"{root / stored.path} (array {stored.array!r}): {there}, its receipt says {stored.bytes} bytes: the "
            f"object is missing, truncated or was replaced{more}; copy it again if the cache was copied, or {RESUME}"
        )


def _wrong_sizes(root: Path, objects: Sequence[StoredObject]) -> list[tuple[StoredObject, int | None]]:
    wrong: list[tuple[StoredObject, int | None]] = []
    for stored in objects:
        path = root / stored.path
        try:
            size = path.stat().st_size
        except ABSENT:
            wrong.append((stored, None))
            continue
        except OSError as error:
            raise access_error(error, path) from error
        if size != stored.bytes:
            wrong.append((stored, size))
    return wrong


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except ABSENT:
        return False
    except OSError as error:
        raise access_error(error, path) from error
