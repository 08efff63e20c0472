"""Which worker has which shards: assigned one ahead, and requeued when a worker is lost."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass

from lookonce.extract.pipeline.events import ShardCommitted, ShardEvent, WorkLost
from lookonce.extract.pipeline.open_shard import ShardTask
from lookonce.shared.errors import WorkerLostError

MAX_ATTEMPTS = 4
"""Workers that one shard may lose; the last of them ends the extraction."""

MAX_TASKS_PER_WORKER = 2
"""Most shards of a worker: the current one and the next, so that no teacher thread waits where one shard ends."""


@dataclass
class AssignedTask:
    """A task of a worker, and the progress that the worker has reported."""

    task: ShardTask
    views: int = 0
    """Computed by the teacher."""
    copied: int = 0
    receipts: int = 0

    @property
    def remaining(self) -> int:
        """Views that are not reported yet."""
        return len(self.task.rows) * len(self.task.seeds) - self.views - self.copied


class ShardScheduler:
    """Assigns tasks to workers, in order, and tracks which are committed.

    A worker with a shard gets the next one when fewer than ``ahead`` of its views remain: early enough that its teacher
    threads do not wait between two shards, late enough that a slow worker does not keep shards that others could do.

    Args:
        tasks: all tasks.
        ahead: remaining views at which a worker gets its next task.
    """

    def __init__(self, tasks: Sequence[ShardTask], ahead: int) -> None:
        self._waiting, self._ahead = collections.deque(tasks), ahead
        self._assigned: dict[object, list[AssignedTask]] = {}
        self._losses: collections.Counter[ShardTask] = collections.Counter()
        self.uncommitted = len(tasks)
        """Tasks that are not committed."""

    @property
    def exhausted(self) -> bool:
        """Whether no task waits for a worker."""
        return not self._waiting

    def add_worker(self, worker: object) -> None:
        """Register a worker; it may not have started yet."""
        self._assigned[worker] = []

    def has_tasks(self, worker: object) -> bool:
        """Whether a worker has uncommitted tasks."""
        return bool(self._assigned[worker])

    def next_task(self, worker: object) -> ShardTask | None:
        """Assign the next task to a worker; None if no task waits, or if the worker has enough."""
        own = self._assigned[worker]
        remaining = sum(one.remaining for one in own)
        if not self._waiting or len(own) >= MAX_TASKS_PER_WORKER or remaining >= self._ahead:
            return None
        idle_workers = sum(not tasks for tasks in self._assigned.values())
        if own and len(self._waiting) <= idle_workers:
            return None  # the last tasks are for workers without any
        own.append(AssignedTask(self._waiting.popleft()))
        return own[-1].task

    def count(self, worker: object, event: ShardEvent) -> None:
        """Count an event of a worker."""
        own = self._assigned[worker]
        done = event.receipt if isinstance(event, ShardCommitted) else event
        one = next(one for one in own if one.task.shard == done.shard and done.seed in one.task.seeds)
        if not isinstance(event, ShardCommitted):
            one.views += event.views
            one.copied += event.copied
            return
        one.receipts += 1
        if one.receipts == len(one.task.seeds):
            own.remove(one)
            self.uncommitted -= 1

    def requeue(self, worker: object, why: str) -> tuple[list[int], WorkLost]:
        """Remove a worker and put its uncommitted tasks back, for other workers.

        Args:
            worker: lost, or dismissed.
            why: one clause, for the message.

        Returns:
            The shards of these tasks, and the progress that is lost with them.

        Raises:
            WorkerLostError: the first of them has lost ``MAX_ATTEMPTS`` workers.
        """
        own = self._assigned.pop(worker)
        if own:
            first = own[0].task  # only the first: the worker had hardly begun the others
            self._losses[first] += 1
            if self._losses[first] == MAX_ATTEMPTS:
                raise WorkerLostError(
                    f"shard {first.shard} lost its worker {MAX_ATTEMPTS} times ({why:.300}); committed shards stay "
                    "valid. Check the machines for memory or driver trouble (ray logs), try fewer --workers or a "
                    "smaller --batch-size, then run again"
                )
        self._waiting.extend(one.task for one in own)
        lost = WorkLost(views=sum(one.views for one in own), copied=sum(one.copied for one in own))
        return [one.task.shard for one in own], lost
