"""Which worker has which shards: handed out one ahead, and again when a worker is lost."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass

from lookonce.extract.pipeline.open_shard import ShardTask
from lookonce.extract.pipeline.pipeline import BatchProgress
from lookonce.shared.errors import WorkerLostError
from lookonce.storage_schemas.receipt import Receipt

MAX_ATTEMPTS = 4
"""How often one shard may be begun by workers that are lost before that ends the extraction."""

MAX_TASKS_PER_WORKER = 2
"""Most shards that a worker holds: one that it works on, and the next, so that no lane waits where one ends."""


@dataclass
class AssignedTask:
    """A task that a worker was given, and what it has told of it."""

    task: ShardTask
    views: int = 0
    """Looked at, as far as was told."""
    copied: int = 0
    receipts: int = 0

    @property
    def left(self) -> int:
        """Views that it has not told of yet."""
        return len(self.task.rows) * len(self.task.seeds) - self.views - self.copied


class ShardScheduler:
    """Hands tasks to workers, in order, and knows which are committed.

    A worker that has a shard gets the next one when less than ``ahead`` views of it are left: early enough that no
    lane of its waits between two shards, late enough that a slow worker does not sit on shards that others could do.

    Args:
        tasks: all that is to be done.
        ahead: views left at which a worker is given its next task.
    """

    def __init__(self, tasks: Sequence[ShardTask], ahead: int) -> None:
        self._waiting, self._ahead = collections.deque(tasks), ahead
        self._held: dict[object, list[AssignedTask]] = {}
        self._lost: collections.Counter[ShardTask] = collections.Counter()
        self.uncommitted = len(tasks)
        """Tasks that are not committed."""

    @property
    def exhausted(self) -> bool:
        """Whether no task waits for a worker."""
        return not self._waiting

    def add_worker(self, worker: object) -> None:
        """A worker has been hired; it need not have started yet."""
        self._held[worker] = []

    def has_tasks(self, worker: object) -> bool:
        """Whether a worker has tasks that it has not committed."""
        return bool(self._held[worker])

    def next_task(self, worker: object) -> ShardTask | None:
        """The next task for a worker; None where none waits, or where it has enough."""
        held = self._held[worker]
        if not self._waiting or len(held) >= MAX_TASKS_PER_WORKER or sum(one.left for one in held) >= self._ahead:
            return None
        if held and len(self._waiting) <= sum(not others for others in self._held.values()):
            return None  # they are for the workers that have nothing yet
        held.append(AssignedTask(self._waiting.popleft()))
        return held[-1].task

    def count(self, worker: object, event: BatchProgress | Receipt) -> None:
        """Count what a worker tells."""
        held = self._held[worker]
        one = next(one for one in held if one.task.shard == event.shard and event.seed in one.task.seeds)
        if isinstance(event, BatchProgress):
            one.views += event.views
            one.copied += event.copied
            return
        one.receipts += 1
        if one.receipts == len(one.task.seeds):
            held.remove(one)
            self.uncommitted -= 1

    def requeue(self, worker: object, why: str) -> tuple[list[int], BatchProgress]:
        """Put what a worker had back, for others; it is no worker any more.

        Args:
            worker: who is lost, or leaves.
            why: one clause, for the message.

        Returns:
            Shards that it had, and the progress that is lost with them, negative.

        Raises:
            WorkerLostError: the first of them was lost too often.
        """
        held = self._held.pop(worker)
        if held:
            first = held[0].task  # the others were hardly begun: they are not blamed
            self._lost[first] += 1
            if self._lost[first] == MAX_ATTEMPTS:
                raise WorkerLostError(
                    f"shard {first.shard} lost its worker {MAX_ATTEMPTS} times ({why:.300}); committed shards stay "
                    "valid. Look for memory or driver trouble (ray logs), try fewer --workers or a smaller "
                    "--batch-size, run again"
                )
        self._waiting.extend(one.task for one in held)
        lost = BatchProgress(views=-sum(one.views for one in held), copied=-sum(one.copied for one in held))
        return [one.task.shard for one in held], lost
