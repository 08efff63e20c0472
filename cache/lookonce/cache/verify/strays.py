"""Files in a cache folder that do not count: temporary files, objects without a receipt, other files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from lookonce.cache.containers import container_of
from lookonce.cache.layout import CacheLayout
from lookonce.cache.verify.findings import Note
from lookonce.shared.files.atomic import TEMPORARY_MARK
from lookonce.shared.files.lock import LOCK_FILES
from lookonce.storage_schemas.encoding import OBJECT_FOLDER
from lookonce.storage_schemas.manifest import Manifest


def stray_notes(layout: CacheLayout, manifest: Manifest, seeds: Sequence[int]) -> list[Note]:
    """Notes about files that do not count, at the top of the cache and below the given seeds, sorted by path."""
    known = _known_files(layout, manifest, seeds)
    unreceipted = _unreceipted_objects(layout, manifest, seeds)
    notes = []
    for path in sorted(_files(layout, seeds)):
        if TEMPORARY_MARK in path.rsplit("/", 1)[-1]:
            notes.append(Note(path=path, remark="a temporary file of a writer that is running or was killed"))
        elif path in unreceipted:
            notes.append(Note(path=path, remark="an object without a receipt: it does not count and will be rewritten"))
        elif path not in known:
            notes.append(Note(path=path, remark="not part of the cache"))
    return notes


def _known_files(layout: CacheLayout, manifest: Manifest, seeds: Sequence[int]) -> AbstractSet[str]:
    root = layout.root
    container, known = container_of(manifest), {layout.manifest_file.name, *LOCK_FILES}
    if manifest.encoding.apart:
        known.add(manifest.encoding.object_path)
    for seed in seeds:
        known |= container.seed_documents(manifest, seed).keys()
        for shard in layout.receipted_shards(seed):
            known.add(layout.receipt_file(seed, shard).relative_to(root).as_posix())
            known |= set(container.object_paths(manifest, seed, shard).values())
    return known


def _unreceipted_objects(layout: CacheLayout, manifest: Manifest, seeds: Sequence[int]) -> AbstractSet[str]:
    return {
        path
        for seed in seeds
        for shard in set(range(manifest.shard_count)) - set(layout.receipted_shards(seed))
        for path in container_of(manifest).object_paths(manifest, seed, shard).values()
    }


def _files(layout: CacheLayout, seeds: Sequence[int]) -> Iterator[str]:
    """Files at the top of the cache, and all files below the given seeds; POSIX paths relative to the cache."""
    root = layout.root
    yield from (entry.name for entry in root.iterdir() if not entry.is_dir())
    yield from (entry.relative_to(root).as_posix() for entry in (root / OBJECT_FOLDER).glob("*"))
    for seed in seeds:
        for top in (layout.seed_folder(seed), layout.receipt_file(seed, 0).parent):
            for folder, _, names in os.walk(top):
                relative = Path(folder).relative_to(root).as_posix()
                yield from (f"{relative}/{name}" for name in names)
