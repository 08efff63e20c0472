"""A shard being written, for all seeds of its task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lookonce.cache.writer import ShardWriter
from lookonce.extract.batch_encoder import EncodedBatch
from lookonce.extract.sanity import ShardStatistics
from lookonce.shared.sources import ListingEntry
from lookonce.storage_schemas.receipt import Receipt


@dataclass(frozen=True)
class ShardTask:
    """The rows of one shard, for all seeds that still lack it."""

    shard: int
    seeds: tuple[int, ...]
    rows: range
    entries: Sequence[ListingEntry]


class OpenShard:
    """Writers and statistics of a shard; used by one thread at a time.

    Args:
        number: which shard.
        open_writer: from seed to a new writer.
        seeds: augmentation seeds of the task.
        width: channels of a token.
        versions: of what makes the content.
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
        try:
            for seed in seeds:
                self._writers[seed] = open_writer(seed)
        except BaseException:
            self.discard()
            raise

    def append(self, seed: int, batch: EncodedBatch) -> None:
        """Append a batch of a seed; they come in the order of their rows.

        Raises:
            StorageError: the file system refused.
        """
        for views in batch.problems:
            self._writers[seed].leave_out(views.row, str(views.problem))
        if batch.rows:
            self._statistics[seed].add(batch.values, batch.saturated_share, self._width)
            self._writers[seed].append(batch.rows, batch.values)

    def commit(self) -> list[Receipt]:
        """A receipt a seed; the shard counts from then on.

        Raises:
            StorageError: the file system refused.
        """
        return [
            writer.commit(statistics=self._statistics[seed].document(), versions=self._versions)
            for seed, writer in self._writers.items()
        ]

    def discard(self) -> None:
        """Remove what is not committed."""
        for writer in self._writers.values():
            writer.discard()
