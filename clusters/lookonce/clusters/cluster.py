"""Joining a Ray cluster, or starting a local one, with sentences where Ray has none."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Generator
from typing import Any

import ray

from lookonce.shared.errors import RayStartError, UsageError


@contextlib.contextmanager
def ray_cluster(address: str, *, without: str) -> Generator[None, None, None]:
    """Join a cluster, or start a local one; leave it (and stop a local one) afterwards.

    Where this process has called ``ray.init`` itself, for a ``runtime_env`` say, that is used, and left as it is.

    Args:
        address: local, auto or HOST:PORT.
        without: what does the same without Ray, for messages.

    Raises:
        UsageError: there is no cluster at the address.
        RayStartError: a local one does not start.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's own future default; silences its warning
    _require_listener(address)
    options: dict[str, Any] = {} if address != "local" else {"include_dashboard": False}
    sigterm = signal.getsignal(signal.SIGTERM)
    try:
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **options)
        except (ConnectionError, ValueError) as error:
            raise UsageError(f"--ray-address {address}: no Ray cluster can be joined there: {error}") from error
        except Exception as error:  # bare, where a local Ray is not up within Ray's own 30 s
            raise RayStartError(
                f"--ray-address {address}: Ray did not start: {error} The machine may be too busy, or its temporary "
                f"folder full; run the same command again, or without Ray: {without}"
            ) from error
        except SystemExit as stop:  # Ray's SIGTERM handler, which ends the process with code 15 and without a word
            raise KeyboardInterrupt from stop
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, sigterm)  # ray.init has put its own there
        yield
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Refuse HOST:PORT where nothing listens: ray.init would try for ever, in silence."""
    host, colon, port = address.rpartition(":")
    if not colon or "://" in address:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"--ray-address {address}: no Ray cluster can be joined there: {error}") from error
