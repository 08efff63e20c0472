"""A shard that is being written, for all seeds of its task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from lookonce.cache.write.shard_writer import ShardWriter
from lookonce.extract.pipeline.batch_encoder import EncodedBatch
from lookonce.extract.sanity import ShardStatistics
from lookonce.shared.sources import ListingEntry
from lookonce.storage_schemas.receipt import Receipt


@dataclass(frozen=True)
class ShardTask:
    """The rows of one shard, for all seeds whose shard is not committed."""

    shard: int
    seeds: tuple[int, ...]
    rows: range
    entries: Sequence[ListingEntry]


class OpenShard:
    """Writers and statistics of a shard, with one thread per seed, so that seeds are digested and written in parallel.

    Args:
        number: number of the shard.
        open_writer: opens the writer of a seed.
        seeds: augmentation seeds of the task.
        width: channels of a token.
        versions: of the libraries that decide the content.
    """

    def __init__(
        self,
        number: int,
        open_writer: Callable[[int], ShardWriter],
        seeds: Sequence[int],
        *,
        width: int,
        versions: Mapping[str, str],
    ) -> None:
        self.number, self._width, self._versions = number, width, versions
        self._statistics = {seed: ShardStatistics() for seed in seeds}
        self._writers: dict[int, ShardWriter] = {}
        self._threads: dict[int, ThreadPoolExecutor] = {}
        try:
            for seed in seeds:
                self._writers[seed] = open_writer(seed)
                self._threads[seed] = ThreadPoolExecutor(1, thread_name_prefix="lookonce-write")
        except BaseException:
            self.discard()
            raise

    def append(self, seed: int, batch: EncodedBatch) -> Future[None]:
        """Append a batch of a seed; batches must come in the order of their rows.

        Returns:
            Done when the batch is written; raises StorageError if the file system refuses an operation.
        """
        return self._threads[seed].submit(self._append, seed, batch)

    def _append(self, seed: int, batch: EncodedBatch) -> None:
        for image in batch.unreadable:
            self._writers[seed].leave_out(image.row, str(image.problem))
        if batch.rows:
            self._statistics[seed].add(batch.values, batch.saturated_share, self._width)
            self._writers[seed].append(batch.rows, batch.values)

    def commit(self) -> list[Future[Receipt]]:
        """Commit each seed after all its batches.

        Returns:
            One receipt per seed; each raises StorageError if the file system refuses an operation.
        """
        return [self._threads[seed].submit(self._commit, seed) for seed in self._writers]

    def _commit(self, seed: int) -> Receipt:
        return self._writers[seed].commit(statistics=self._statistics[seed].document(), versions=self._versions)

    def discard(self) -> None:
        """Wait for running writes, then remove everything that is not committed."""
        for thread in self._threads.values():
            thread.shutdown(cancel_futures=True)
        for writer in self._writers.values():
            writer.discard()
