"""Holds the objects of the steps that are read now, and fetches those of later steps as far as there is room."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator

from lookonce.cache.read.remote_caches import ObjectUse
from lookonce.shared.errors import LookonceError
from lookonce.stores.streaming.fetching import Fetching, HeldObject
from lookonce.stores.transport.transfer import Transfer

RETRY_SECONDS = 1.0
"""Pause before room is asked for again: other processes may have given up some."""


class FetchAhead:
    """One pass over steps; see ``ObjectsAhead``.

    Args:
        fetching: what this process holds.
        uses: objects in the order of their first steps.
        horizon: steps after the newest one from which objects are fetched.
        transfer_of: the requests to the store of a use's cache.
        ended: called by ``close``.
    """

    def __init__(
        self,
        fetching: Fetching,
        uses: Iterator[ObjectUse],
        horizon: int,
        transfer_of: Callable[[ObjectUse], Transfer],
        ended: Callable[[], None],
    ) -> None:
        self._fetching, self._uses, self._horizon = fetching, uses, horizon
        self._transfer_of, self._ended = transfer_of, ended
        self._moved = threading.Condition()
        self._oldest = self._newest = -1
        self._open = collections.deque[ObjectUse]()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="lookonce-ahead")
        self._thread.start()

    def advance(self, oldest: int, newest: int) -> None:
        """See ``ObjectsAhead``."""
        with self._moved:
            self._oldest, self._newest = oldest, newest
            over = [use for use in self._open if use.last < oldest]
            if over:
                self._open = collections.deque(use for use in self._open if use.last >= oldest)
            self._moved.notify_all()
        for use in over:
            self._give_up(use)

    def close(self) -> None:
        """See ``ObjectsAhead``."""
        with self._moved:
            if self._closed:
                return
            self._closed = True
            self._moved.notify_all()
        self._ended()
        self._thread.join()
        for use in self._open:
            self._give_up(use)

    def _give_up(self, use: ObjectUse) -> None:
        if self._fetching.release(use.objects):
            use.close()

    def _run(self) -> None:
        with contextlib.suppress(LookonceError):  # the read that needs the object raises it
            self._fetch_all()

    def _fetch_all(self) -> None:
        for use in self._uses:
            if not self._waited(lambda use=use: use.first <= self._newest + self._horizon):  # type: ignore[misc]
                return
            if use.last < self._oldest:
                continue
            transfer = self._transfer_of(use)
            absent = self._fetching.hold([(stored, transfer) for stored in use.objects])
            with self._moved:
                self._open.append(use)
            if not self._fetched(use, absent):
                return

    def _fetched(self, use: ObjectUse, absent: list[HeldObject]) -> bool:
        """Fetch what the folder lacks, as soon as there is room; False if the pass is closed before."""
        count = sum(found.stored.bytes for found in absent)
        while absent:
            with self._moved:
                now, closed = use.first <= self._newest, self._closed
            if closed or not threading.main_thread().is_alive():
                return False
            try:
                if self._fetching.folder.make_room(count, must=now):
                    self._fetching.fetch(absent, use.first)
                    break
            except LookonceError:  # the read that needs the object raises it
                pass
            with self._moved:
                self._moved.wait(RETRY_SECONDS)
        return True

    def _waited(self, reached: Callable[[], bool]) -> bool:
        """Wait until the reading has reached that step; False if the pass is closed, or the process ends."""
        with self._moved:
            while not reached():
                if self._closed or not threading.main_thread().is_alive():
                    return False
                self._moved.wait(RETRY_SECONDS)
            return not self._closed
