"""Converting a cache: to another container, fewer bits, fewer tokens, another shard size; features stay the recipe's.

The result is a cache like any other: its fingerprint is the source's (or, of fewer tokens, that of their recipe), its
receipts keep holes and statistics, and a conversion that was stopped goes on where it was.
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
    create_cache,
    exclusive_writer,
    existing_manifest,
    prepare_seed,
    remove_temporary_files,
)
from lookonce.shared.errors import CacheError, UsageError
from lookonce.shared.printing import Result
from lookonce.storage_schemas.manifest import Manifest

Progress = Callable[[int, int], None]
"""Called with the shards there so far and the shards in all."""


@dataclass(frozen=True, kw_only=True)
class ConversionSummary(Result):
    """What a conversion did, and what is there now."""

    source: str
    cache: str
    fingerprint: str
    container: str
    precision: str
    seeds: tuple[int, ...]
    shards: int
    shards_written: int
    """Written by this run; the others were there."""
    source_bytes: int
    bytes: int

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        return {**asdict(self), "seeds": list(self.seeds)}

    def text(self) -> str:
        """One line for people."""
        size = f"{self.bytes / 1e6:.1f} MB, {self.bytes / max(self.source_bytes, 1):.0%} of {self.source}"
        shards = f"{self.shards} shards ({self.shards_written} written now)"
        return f"{self.cache}: {self.precision}, {self.container}, {shards}, {size}"


def convert_cache(
    source: Path, out: Path, request: ConversionRequest, *, workers: int = 1, progress: Progress | None = None
) -> ConversionSummary:
    """Write what the cache at ``out`` still lacks of a converted ``source``.

    Args:
        source: a cache whose seeds are whole.
        out: new, empty, or a conversion of the same cache by the same request.
        request: what to change.
        workers: threads, at least 1; each holds one batch in memory.
        progress: told after each shard.

    Raises:
        UsageError: fewer than one worker, ``out`` is ``source`` or in it, or a precision of no fewer bits.
        IncompleteCacheError: a seed of the source has shards without receipts.
        IntegrityError: an object of the source is damaged.
        RecipeMismatchError: ``out`` is a cache of another recipe.
        CacheError: ``out`` is something else, or a cache stored in another way.
        StorageError: the operating system refused; what was committed stays valid.
    """
    if workers < 1:
        raise UsageError(f"workers: expected at least 1, found {workers}")
    source, out = source.expanduser().absolute(), out.expanduser().absolute()
    if out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{out}: a cache cannot be converted into itself or a folder in it; choose another folder")
    reader = CacheReader(source)
    existing_manifest(out)  # refuses a folder that is something else before anything is written there
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
                f"{out}: the cache there has another {name} ({there}) than this conversion gives ({asked}); "
                "it is left untouched: choose another folder"
            )


def _bytes(reader: CacheReader) -> int:
    return sum(receipt.content_bytes for seed in reader.seeds for receipt in reader.receipts(seed))
