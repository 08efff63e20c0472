"""Copies the documents of a cache at a URL to a folder, where they are checked as those of any cache."""

from __future__ import annotations

from pathlib import Path

from lookonce.cache.containers import container_of
from lookonce.cache.layout import decode_json, receipt_path
from lookonce.shared.errors import SchemaError
from lookonce.storage_schemas.manifest import FILE_NAME, Manifest
from lookonce.stores.remote_cache import RemoteCache, named_object
from lookonce.stores.transport.transfer import Transfer


def mirror_manifest(transfer: Transfer, folder: Path) -> bool:
    """Copy the manifest and the object that it names; whether there is a manifest.

    Raises:
        StoreError: the store refuses or does not answer.
    """
    content = transfer.read(FILE_NAME)
    if content is None:
        return False
    (folder / FILE_NAME).write_bytes(content)
    try:
        path = named_object(decode_json(content, FILE_NAME))
    except SchemaError:  # whoever reads the copy says so
        path = None
    if path is not None:
        _copy(transfer, folder, path)
    return True


def mirror_receipts(transfer: Transfer, folder: Path, manifest: Manifest, *, metadata: bool) -> tuple[int, ...]:
    """Copy the receipts.

    Args:
        transfer: requests to the store.
        folder: where the manifest was copied to.
        manifest: the manifest.
        metadata: whether to copy the metadata of each seed, too.

    Returns:
        The seeds that have receipts, in numeric order.

    Raises:
        StoreError: the store refuses or does not answer.
    """
    receipted = RemoteCache(transfer).receipted(manifest)
    paths = [receipt_path(seed, shard) for seed, shards in receipted.items() for shard in sorted(shards)]
    if metadata:
        container = container_of(manifest)
        paths += [path for seed in receipted for path in container.seed_documents(manifest, seed)]
    transfer.each(lambda path: _copy(transfer, folder, path), paths)
    return tuple(receipted)


def _copy(transfer: Transfer, folder: Path, path: str) -> None:
    content = transfer.read(path)
    if content is not None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
