"""Which shards of a cache count. Extraction, conversion and planning resume by this one rule."""

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
"""Network file systems answer many requests at once."""

STATUSES_PER_TASK = 64


def receipt_identity(manifest: Manifest, shard: int) -> dict[str, object]:
    """The fields of a shard's receipt that the manifest determines, with their values.

    They include the rows: with another shard size, rows of a cache with the same content would get wrong values.
    """
    rows = manifest.shard_rows(shard)
    return {
        "fingerprint": manifest.recipe.fingerprint,
        "encoding": manifest.encoding.digest,
        "first_sample": rows.start,
        "samples": len(rows),
    }


def receipt_mismatches(receipt: Receipt, manifest: Manifest) -> dict[str, tuple[object, object]]:
    """Fields of a receipt that contradict the manifest, with (found, expected)."""
    expected = receipt_identity(manifest, receipt.shard)
    found = {field: getattr(receipt, field) for field in expected}
    return {field: (found[field], value) for field, value in expected.items() if found[field] != value}


def is_committed(layout: CacheLayout, manifest: Manifest, seed: int, shard: int) -> bool:
    """Whether a shard has a receipt of this cache that lists all its objects, and each object has its size.

    Digests are not checked here; ``feature-cache verify --full`` checks them.

    Raises:
        AccessError: a receipt or an object cannot be accessed; it may be sound and must stay.
    """
    if shard >= manifest.shard_count:
        return False
    try:
        receipt = layout.load_receipt(seed, shard)
    except SchemaError:
        return False
    if receipt_mismatches(receipt, manifest):
        return False
    listed = {stored.array: stored.path for stored in receipt.objects}
    if listed != container_of(manifest).object_paths(manifest, seed, shard):
        return False
    return all(_has_size(layout.root / stored.path, stored.bytes) for stored in receipt.objects)


def remaining_shards(
    layout: CacheLayout, manifest: Manifest, seeds: Sequence[int], *, remove_invalid_receipts: bool
) -> list[tuple[int, int]]:
    """(seed, shard) pairs of a cache that are not committed, by seed, then shard; see ``is_committed``.

    Args:
        layout: layout of the cache.
        manifest: manifest of the cache.
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
    """Check that every object of some receipts exists and has its size. Digests are checked at the first read.

    This takes a second for ten thousand objects on a local disk.

    Args:
        root: the cache folder.
        receipts: receipts of the cache.

    Raises:
        IntegrityError: objects are missing or have another size; the message names the first.
        AccessError: an object cannot be accessed.
    """
    objects = [stored for receipt in receipts for stored in receipt.objects]
    parts = [objects[start : start + STATUSES_PER_TASK] for start in range(0, len(objects), STATUSES_PER_TASK)]
    with ThreadPoolExecutor(STATUS_THREADS, thread_name_prefix="lookonce-size") as threads:
        wrong = [pair for pairs in threads.map(lambda part: _wrong_sizes(root, part), parts) for pair in pairs]
    if wrong:
        stored, size = wrong[0]
        found = "there is no such file" if size is None else f"{size} bytes"
        more = f" ({len(wrong)} of {len(objects)} objects have this problem)" if len(wrong) > 1 else ""
        raise IntegrityError(
            f"{root / stored.path} (array {stored.array!r}): {found}, its receipt lists {stored.bytes} bytes: the "
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
