"""Noticing that the Ray head is gone: Ray would end this process after a minute, without a sentence."""

from __future__ import annotations

import socket
import time

from lookonce.shared.errors import HeadLostError

PATIENCE = 20.0
"""Seconds for which nothing may listen at the head's address; Ray itself gives up after 60."""
INTERVAL = 2.0
"""Seconds between two looks."""


class HeadWatch:
    """Looks every few seconds whether something still listens at the head's address.

    Args:
        address: HOST:PORT of the head (its GCS).
        patience: seconds without a listener after which the head counts as lost.
    """

    def __init__(self, address: str, *, patience: float = PATIENCE) -> None:
        self._address, self._patience = address, patience
        self._looked = time.monotonic()
        self._silent_since: float | None = None

    def check(self) -> None:
        """Look, if it is time to.

        Raises:
            HeadLostError: nothing has listened there for as long as the patience lasts.
        """
        now = time.monotonic()
        if now - self._looked < min(INTERVAL, self._patience):
            return
        self._looked = now
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=INTERVAL).close()
        except OSError as error:
            self._silent_since = self._silent_since or now  # not since the last answer: this process may have slept
            if now - self._silent_since >= self._patience:
                raise HeadLostError(
                    f"the Ray head at {self._address} is gone: nothing listens there any more "
                    f"({error.strerror or error}); what was committed stays valid. Start the cluster again (or use "
                    "--ray-address local), then run the same command again"
                ) from error
        else:
            self._silent_since = None
