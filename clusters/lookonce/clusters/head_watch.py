"""Detects the loss of the Ray head: Ray itself would end this process after a minute, without a message."""

from __future__ import annotations

import socket
import time

from lookonce.shared.errors import HeadLostError

PATIENCE = 20.0
"""Seconds without a listener at the head's address before the head is lost; Ray itself gives up after 60."""
INTERVAL = 2.0
"""Seconds between two checks."""


class HeadWatch:
    """Checks every few seconds that something listens at the head's address.

    Args:
        address: HOST:PORT of the head (its GCS).
        patience: seconds without a listener after which the head counts as lost.
    """

    def __init__(self, address: str, *, patience: float = PATIENCE) -> None:
        self._address, self._patience = address, patience
        self._checked = time.monotonic()
        self._silent_since: float | None = None

    def check(self) -> None:
        """Check the head if the last check is long enough ago.

        Raises:
            HeadLostError: nothing has listened at the address for ``patience`` seconds.
        """
        now = time.monotonic()
        if now - self._checked < min(INTERVAL, self._patience):
            return
        self._checked = now
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=INTERVAL).close()
        except OSError as error:
            self._silent_since = self._silent_since or now  # not the last answer: this process may have slept
            if now - self._silent_since >= self._patience:
                raise HeadLostError(
                    f"the Ray head at {self._address} is gone: nothing listens there any more "
                    f"({error.strerror or error}); committed shards and checkpoints stay valid. Start the cluster "
                    "again (or use --ray-address local), then run the same command again"
                ) from error
        else:
            self._silent_since = None
