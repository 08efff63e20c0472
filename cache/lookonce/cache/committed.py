"""Which shards count: the one rule by which whoever writes a cache resumes."""

from __future__ import annotations

from pathlib import Path

from lookonce.cache.containers import container_of
from lookonce.cache.layout import CacheLayout
from lookonce.shared.errors import SchemaError
from lookonce.shared.os_errors import ABSENT, access_error
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt


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


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except ABSENT:
        return False
    except OSError as error:
        raise access_error(error, path) from error
