"""Converts a cache to another container, fewer bits, fewer tokens or another shard size.

The result is a cache like any other. Its fingerprint is that of the source, unless tokens are dropped, which changes
the recipe. Its receipts keep holes and statistics. A stopped conversion resumes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookonce.cache.committed import remaining_shards
from lookonce.cache.convert.request import ConversionRequest, converted_manifest
from lookonce.cache.convert.shard_conversion import ShardConverter
from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.verify.digests import in_threads
from lookonce.cache.write.create import (
    check_same_recipe,
    check_same_storage,
    create_cache,
    exclusive_writer,
    existing_manifest,
    prepare_seed,
    remove_temporary_files,
)
from lookonce.shared.errors import UsageError
from lookonce.shared.printing import Result
from lookonce.storage_schemas.manifest import Manifest

Progress = Callable[[int, int], None]
"""Called with the number of committed shards and the total number of shards."""


@dataclass(frozen=True, kw_only=True)
class ConversionSummary(Result):
    """Result of a conversion."""

    source: str
    cache: str
    fingerprint: str
    container: str
    precision: str
    seeds: tuple[int, ...]
    shards: int
    shards_written: int
    """Number of shards that this run wrote; the others existed."""
    source_bytes: int
    bytes: int

    def document(self) -> dict[str, Any]:
        """The summary as a JSON-compatible document."""
        return {**asdict(self), "seeds": list(self.seeds)}

    def text(self) -> str:
        """One line for people."""
        size = f"{self.bytes / 1e6:.1f} MB, {self.bytes / max(self.source_bytes, 1):.0%} of {self.source}"
        shards = f"{self.shards} shards ({self.shards_written} written now)"
        return f"{self.cache}: {self.precision}, {self.container}, {shards}, {size}"


def convert_cache(
    source: Path, out: Path, request: ConversionRequest, *, workers: int = 1, progress: Progress | None = None
) -> ConversionSummary:
    """Write the shards that the cache at ``out`` still lacks of the converted ``source``.

    Args:
        source: a cache whose seeds are complete.
        out: new, empty, or an earlier result of the same conversion.
        request: properties to change.
        workers: threads, at least 1; each needs memory for one batch.
        progress: called after each shard.

    Raises:
        UsageError: ``workers`` is below 1, ``out`` is ``source`` or inside it, or the precision has no fewer bits.
        IncompleteCacheError: a seed of the source has shards without receipts.
        IntegrityError: an object of the source is damaged.
        RecipeMismatchError: ``out`` is a cache of another recipe.
        CacheError: ``out`` is not a cache, or a cache with other storage settings.
        StorageError: the operating system refused a write; committed shards stay valid.
    """
    if workers < 1:
        raise UsageError(f"workers: expected at least 1, found {workers}")
    source, out = source.expanduser().absolute(), out.expanduser().absolute()
    if out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{out}: a cache cannot be converted into itself or a folder in it; choose another folder")
    reader = CacheReader(source)
    existing_manifest(out)  # refuses a folder with other files before anything is written there
    wanted = converted_manifest(reader, request)
    with exclusive_writer(out):
        _open_or_create(out, wanted)
        remove_temporary_files(out)
        layout, converter = CacheLayout(out), ShardConverter(reader, out, wanted)
        for seed in reader.seeds:
            prepare_seed(out, wanted, seed)
        todo = remaining_shards(layout, wanted, reader.seeds, remove_invalid_receipts=True)
        total = len(reader.seeds) * wanted.shard_count
        try:
            for done, _ in enumerate(in_threads(converter.convert, todo, workers), total - len(todo) + 1):
                if progress is not None:
                    progress(done, total)
        finally:
            remove_temporary_files(out)
    written = CacheReader(out, seeds=reader.seeds, check="never")
    return ConversionSummary(
        source=str(source),
        cache=str(out),
        fingerprint=wanted.recipe.fingerprint,
        container=wanted.container,
        precision=wanted.encoding.precision,
        seeds=reader.seeds,
        shards=total,
        shards_written=len(todo),
        source_bytes=_bytes(reader),
        bytes=_bytes(written),
    )


def _open_or_create(out: Path, wanted: Manifest) -> None:
    found = existing_manifest(out)
    if found is None:
        create_cache(out, wanted)
        return
    check_same_recipe(out, found.recipe, wanted.recipe)
    check_same_storage(out, found, wanted, than="this conversion")


def _bytes(reader: CacheReader) -> int:
    return sum(receipt.content_bytes for seed in reader.seeds for receipt in reader.receipts(seed))
