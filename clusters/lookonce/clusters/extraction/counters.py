"""Numbers for Ray's dashboard and for whoever scrapes its Prometheus endpoints; Ray adds node, worker and job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.util.metrics import Counter

from lookonce.extract.pipeline.pipeline import BatchProgress
from lookonce.storage_schemas.receipt import Receipt


class WorkerMetrics:
    """Counters of one worker; in Prometheus they are called ``ray_lookonce_..._total``.

    Args:
        counter: makes a counter from name, description and ``tag_keys``.
    """

    def __init__(self, counter: Callable[..., Any] = Counter) -> None:
        self._views = counter("lookonce_views", "Views that the teacher has looked at, unreadable ones included.")
        self._copied = counter("lookonce_views_copied", "Views copied from an earlier cache (--reuse).")
        self._bytes = counter("lookonce_bytes", "Bytes of committed shards.")
        self._shards = counter("lookonce_shards", "Committed shards, of one seed each.")
        self._seconds = counter(
            "lookonce_lane_seconds",
            "Time of the lanes: waiting for views (decode), in the teacher, waiting for the disk (write).",
            tag_keys=("part",),
        )

    def count(self, event: BatchProgress | Receipt) -> None:
        """Count one event of the worker."""
        if isinstance(event, Receipt):
            self._shards.inc(1)
            self._bytes.inc(event.content_bytes)
            return
        for counter, value in ((self._views, event.views), (self._copied, event.copied)):
            if value:
                counter.inc(value)
        for part in ("decode", "teacher", "write"):
            if spent := getattr(event.time, part):
                self._seconds.inc(spent, tags={"part": part})
