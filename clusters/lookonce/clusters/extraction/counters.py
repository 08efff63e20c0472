"""Counters of a worker for Ray's dashboard and its Prometheus endpoints; Ray adds node, worker and job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.util.metrics import Counter

from lookonce.extract.pipeline.events import ShardCommitted, ShardEvent


class WorkerMetrics:
    """Counters of one worker. Prometheus names them ``ray_lookonce_..._total``.

    Args:
        counter: makes a counter from name, description and ``tag_keys``.
    """

    def __init__(self, counter: Callable[..., Any] = Counter) -> None:
        self._views = counter("lookonce_views", "Views computed by the teacher, unreadable ones included.")
        self._copied = counter("lookonce_views_copied", "Views copied from an earlier cache (--reuse).")
        self._bytes = counter("lookonce_bytes", "Bytes of committed shards.")
        self._shards = counter("lookonce_shards", "Committed shards, one per seed.")
        self._seconds = counter(
            "lookonce_lane_seconds",
            "Time of the teacher threads: waiting for views (decode), in the teacher, waiting for the disk (write).",
            tag_keys=("part",),
        )

    def count(self, event: ShardEvent) -> None:
        """Count one event of the worker."""
        if isinstance(event, ShardCommitted):
            self._shards.inc(1)
            self._bytes.inc(event.receipt.content_bytes)
            return
        for counter, value in ((self._views, event.views), (self._copied, event.copied)):
            if value:
                counter.inc(value)
        for part in ("decode", "teacher", "write"):
            if spent := getattr(event.time, part):
                self._seconds.inc(spent, tags={"part": part})
