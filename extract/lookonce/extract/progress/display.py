"""What a user sees while an extraction runs: rate, bytes, time left, and where the time goes."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from tqdm import tqdm

from lookonce.cache.write.sizes import cache_bytes, key_bytes
from lookonce.extract.pipeline.events import ProgressEvent, ShardCommitted, ViewsDone, WorkLost
from lookonce.extract.pipeline.open_shard import ShardTask
from lookonce.extract.progress.worker_table import WorkerTable
from lookonce.extract.sanity import ShardStatistics
from lookonce.shared.printing import bytes_text
from lookonce.shared.progress_bar import progress_bar
from lookonce.shared.sources import Listing
from lookonce.storage_schemas.manifest import Manifest

REFRESHES_PER_SECOND = 2.0


def size_sentence(manifest: Manifest, listing: Listing, seeds: Sequence[int]) -> str:
    """One line before an extraction: the size of the requested seeds once they are complete."""
    keys = key_bytes(manifest, seeds, listing.entries)
    planned = cache_bytes(manifest, seeds, keys=keys, statistics=tuple(ShardStatistics().document()))
    views = f"{planned.views:,} views of {bytes_text(planned.per_view)}"
    rest = ", and their JPEGs, whose sizes feature-cache plan estimates" if manifest.pixels == "jpeg" else ""
    return f"expected size: {planned.total:,} bytes ({views}){rest}"


def small_disk_note(tasks: Sequence[ShardTask], manifest: Manifest, out: Path) -> str | None:
    """A note before an extraction whose views need more room than is free where ``out`` is; None if there is enough."""
    views = sum(len(task.rows) * len(task.seeds) for task in tasks)
    needed, free = views * sum(spec.sample_bytes for spec in manifest.arrays), shutil.disk_usage(out).free
    if needed <= free:
        return None
    least = "more than" if manifest.pixels == "jpeg" else "about"
    return (
        f"this run writes {least} {bytes_text(needed)}, and {bytes_text(free)} are free at {out}: it will end when the "
        "disk is full; make room, or choose fewer --seeds, --precision int4 or another --out"
    )


class ExtractionProgress:
    """Counts events of an extraction and shows them on standard error. A context manager.

    On a terminal: a progress bar and, with several workers, one table row per worker. Elsewhere: a line now and then.

    Args:
        tasks: everything that this run extracts.
        manifest: of the cache.
        show: whether anything is printed.
    """

    def __init__(self, tasks: Sequence[ShardTask], manifest: Manifest, *, show: bool) -> None:
        self.views = 0
        """Views computed by the teacher, unreadable ones included."""
        self.copied = 0
        """Views copied from an earlier cache."""
        self._written: dict[tuple[int, int], int] = {}
        """Views by (seed, shard). A pair is written twice if its worker is lost between the receipts of two seeds."""
        self.workers = WorkerTable()
        """Where the workers' time goes."""
        self._view_bytes: float = sum(spec.sample_bytes for spec in manifest.arrays)
        self._total = sum(len(task.rows) * len(task.seeds) for task in tasks)
        self._show = show
        self._started = self._ended = 0.0
        self._line: _TerminalLine | _LogLine | None = None

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        on_terminal = self._show and self._total > 0 and sys.stderr.isatty()
        self._line = _TerminalLine(self._total, self.workers) if on_terminal else _LogLine(self._total, show=self._show)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = time.perf_counter()
        if self._line is not None:
            self._line.close()

    @property
    def shards_written(self) -> int:
        """(seed, shard) pairs that were written."""
        return len(self._written)

    @property
    def views_written(self) -> int:
        """Views in the written shards, without the unreadable ones."""
        return sum(self._written.values())

    @property
    def seconds(self) -> float:
        """Wall seconds of the extraction itself."""
        return (self._ended or time.perf_counter()) - self._started

    def update(self, event: ProgressEvent) -> None:
        """Count one event."""
        match event:
            case ShardCommitted(receipt):
                views = receipt.samples - len(receipt.holes)
                self._written[receipt.seed, receipt.shard] = views
                if views:
                    self._view_bytes = receipt.content_bytes / views
            case ViewsDone(views=views, copied=copied):
                self.workers.update(event)
                self._count(views, copied)
            case WorkLost(views=views, copied=copied):
                self._count(-views, -copied)

    def _count(self, views: int, copied: int) -> None:
        self.views += views
        self.copied += copied
        if self._line is not None:
            written = (self.views + self.copied) * self._view_bytes
            shares = " ".join(f"{name} {share:.0%}" for name, share in self.workers.spent.shares().items())
            self._line.advance(views + copied, f"{written / 1e6:.0f} MB" + (f", {shares}" if shares else ""))


class _LogLine:
    """Progress in a log file: one tqdm line now and then."""

    def __init__(self, total: int, *, show: bool) -> None:
        self._bar: tqdm[None] = progress_bar(total=total, unit="view", show=show)

    def advance(self, views: int, note: str) -> None:
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(views)

    def close(self) -> None:
        self._bar.close()


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0.0:.1f} view/s")


class _TerminalLine:
    """Progress on a terminal: a bar above the table of workers, drawn by one thread of rich."""

    def __init__(self, total: int, workers: WorkerTable) -> None:
        self._bar = Progress(
            TaskProgressColumn(),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self._task = self._bar.add_task("", total=total)
        self._live = Live(
            Group(self._bar, workers),
            console=Console(stderr=True),
            refresh_per_second=REFRESHES_PER_SECOND,
            redirect_stdout=False,
        )
        self._live.start()

    def advance(self, views: int, note: str) -> None:
        self._bar.update(self._task, advance=views, description=note)

    def close(self) -> None:
        self._live.stop()
