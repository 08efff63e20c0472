"""The facts of a cache at a URL, from its manifest and receipts alone."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from lookonce.cache.layout import CacheLayout
from lookonce.cache.show.description import describe_cache
from lookonce.cache.show.facts import CacheFacts
from lookonce.stores.mirror import mirror_manifest, mirror_receipts
from lookonce.stores.push import DEFAULT_PATIENCE, DEFAULT_WORKERS
from lookonce.stores.remote_cache import RemoteCache
from lookonce.stores.transport.open_store import open_store
from lookonce.stores.transport.transfer import Transfer
from lookonce.stores.transport.urls import parse_url


def describe_url(url: str, *, workers: int = DEFAULT_WORKERS, patience: float = DEFAULT_PATIENCE) -> CacheFacts:
    """Facts of a cache at a URL; no features are read.

    Args:
        url: as typed.
        workers: documents that are read at the same time.
        patience: seconds without progress after which failing requests are no longer repeated.

    Raises:
        CacheError: there is no cache.
        SchemaError: its manifest is invalid.
        StoreError: the store refuses or does not answer.
    """
    transfer = Transfer(open_store(parse_url(url, "CACHE"), patience), workers=workers, patience=patience)
    manifest = RemoteCache(transfer).manifest().manifest  # raises errors that name the URL
    with tempfile.TemporaryDirectory(prefix="lookonce-") as name:
        mirror_manifest(transfer, Path(name))
        mirror_receipts(transfer, Path(name), manifest, metadata=False)
        return dataclasses.replace(describe_cache(CacheLayout(Path(name)).root), cache=transfer.store.url)
