"""One process, no Ray: for debugging, and for machines without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lookonce.extract.shard_extractor import BatchProgress, ShardExtractor, ShardTask
from lookonce.storage_schemas.receipt import Receipt


def run_inline(extractor: ShardExtractor, tasks: Sequence[ShardTask]) -> Iterator[BatchProgress | Receipt]:
    """Extract the shards one after the other; yields what each yields."""
    for task in tasks:
        yield from extractor.extract(task)
