"""Events of an extraction: from the pipeline, through the worker if there is one, to the progress display."""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass, field

from lookonce.storage_schemas.receipt import Receipt


@dataclass
class ThreadTimes:
    """Where the time of a teacher thread went, seconds."""

    decode: float = 0.0
    """Waiting for views."""
    teacher: float = 0.0
    """In the teacher, encoding, and copying to and from the device."""
    write: float = 0.0
    """Waiting until earlier batches are written."""
    forward: float = 0.0
    """Part of ``teacher`` in the bare forward pass. On CPUs: CPU time of the thread. On a GPU: time in which this
    thread has the device to itself, counted once per teacher thread, because the others cannot use it meanwhile."""
    core_wait: float = 0.0
    """Part of ``teacher`` in which the thread did not run because other threads or programs had the CPU cores; 0 on a
    GPU."""

    def __add__(self, other: ThreadTimes) -> ThreadTimes:
        return ThreadTimes(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def shares(self) -> dict[str, float]:
        """``decode``, ``teacher`` and ``write`` as shares of their sum, 0..1; empty if the sum is 0."""
        parts = {"decode": self.decode, "teacher": self.teacher, "write": self.write}
        total = sum(parts.values())
        return {name: round(spent / total, 4) for name, spent in parts.items()} if total else {}


def process_name() -> str:
    """Node and process: ``node:pid``."""
    return f"{os.uname().nodename}:{os.getpid()}"


@dataclass(frozen=True)
class WorkerStarted:
    """A worker process runs; the first event of each worker."""

    worker: str = field(default_factory=process_name)
    """Node and process."""


@dataclass(frozen=True, kw_only=True)
class ViewsDone:
    """Views of one shard are written; they count once the shard is committed. A few bytes, sent to the driver."""

    shard: int
    seed: int
    """Seed of the views; the first seed of the shard's task if the views belong to several."""
    views: int = 0
    """Views that the teacher computed, unreadable ones included."""
    copied: int = 0
    """Views copied from an earlier cache."""
    time: ThreadTimes = field(default_factory=ThreadTimes)
    """Of the teacher thread that computed the batch."""
    worker: str = field(default_factory=process_name)
    """Node and process that computed the batch."""


@dataclass(frozen=True)
class ShardCommitted:
    """A (seed, shard) is committed."""

    receipt: Receipt


@dataclass(frozen=True, kw_only=True)
class WorkLost:
    """A worker was lost before its shards were committed: these views are extracted again."""

    views: int
    copied: int


ShardEvent = ViewsDone | ShardCommitted
"""Events of a ``ShardExtractor``."""

ProgressEvent = ViewsDone | ShardCommitted | WorkLost
"""Events of an extraction, wherever its shards are extracted."""
