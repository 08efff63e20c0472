"""What a user sees while an extraction runs: rate, bytes, time left, and where the time goes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tqdm import tqdm

from lookonce.cache.write.sizes import cache_bytes, key_bytes
from lookonce.extract.pipeline.shard_extractor import BatchProgress, ShardTask
from lookonce.extract.progress.worker_table import WorkerTable
from lookonce.extract.sanity import ShardStatistics
from lookonce.shared.progress_bar import progress_bar
from lookonce.shared.quantities import bytes_text
from lookonce.shared.sources import Listing
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt


def size_sentence(manifest: Manifest, listing: Listing, seeds: Sequence[int]) -> str:
    """One line before an extraction: what the asked seeds take when they are whole."""
    keys = key_bytes(manifest, seeds, listing.entries)
    planned = cache_bytes(manifest, seeds, keys=keys, statistics=tuple(ShardStatistics().document()))
    return f"expected size: {planned.total:,} bytes ({planned.views:,} views of {bytes_text(planned.a_view)})"


class ExtractionProgress:
    """Counts events of an extraction; shows them on standard error: one line, on a terminal also a row a worker."""

    def __init__(self, tasks: Sequence[ShardTask], manifest: Manifest, *, show: bool) -> None:
        self.views = 0
        """Views looked at, unreadable ones included."""
        self.copied = 0
        """Views taken from an earlier cache."""
        self._written: dict[tuple[int, int], int] = {}
        """Views by (seed, shard): where a worker is lost between two seeds' receipts, both seeds are done again."""
        self.workers = WorkerTable(show=show and sys.stderr.isatty())
        """Where the workers' time goes."""
        self._view_bytes = sum(spec.sample_bytes for spec in manifest.arrays)
        self._total = sum(len(task.rows) * len(task.seeds) for task in tasks)
        self._show = show
        self._started = self._ended = 0.0
        self._bar: tqdm[None] | None = None

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        self._bar = progress_bar(total=self._total, unit="view", show=self._show)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = time.perf_counter()
        self.workers.close()
        if self._bar is not None:
            self._bar.close()

    @property
    def shards_written(self) -> int:
        """Shards, of a seed each, that were written."""
        return len(self._written)

    @property
    def views_written(self) -> int:
        """Views in them, without the unreadable ones."""
        return sum(self._written.values())

    @property
    def seconds(self) -> float:
        """Wall seconds of the extraction proper."""
        return (self._ended or time.perf_counter()) - self._started

    def update(self, event: BatchProgress | Receipt) -> None:
        """Count one event."""
        if isinstance(event, Receipt):
            self._written[event.seed, event.shard] = event.samples - len(event.holes)
            return
        self.views += event.views
        self.copied += event.copied
        self.workers.update(event)
        if self._bar is not None:
            written = (self.views + self.copied) * self._view_bytes
            shares = " ".join(f"{name} {share:.0%}" for name, share in self.workers.spent.shares().items())
            self._bar.set_postfix_str(f"{written / 1e6:.0f} MB, {shares}", refresh=False)
            self._bar.update(event.views + event.copied)
