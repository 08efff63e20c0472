"""Joins a Ray cluster or starts a local one, with clear errors."""

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
    """A context that joins a cluster or starts a local one; afterwards it leaves it, and stops a local one.

    If this process has already called ``ray.init``, for example with a ``runtime_env``, that cluster is used and kept.

    Args:
        address: local, auto or HOST:PORT.
        without: option that replaces Ray, for messages.

    Raises:
        UsageError: there is no cluster at the address.
        RayStartError: a local cluster does not start.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the future default of Ray; avoids its warning
    _require_listener(address)
    options: dict[str, Any] = {} if address != "local" else {"include_dashboard": False}
    sigterm = signal.getsignal(signal.SIGTERM)
    try:
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **options)
        except (ConnectionError, ValueError) as error:
            raise UsageError(f"--ray-address {address}: no Ray cluster can be joined there: {error}") from error
        except Exception as error:  # a bare Exception if a local Ray does not start within 30 s
            raise RayStartError(
                f"--ray-address {address}: Ray did not start: {error} The machine may be too busy, or its temporary "
                f"folder full; run the same command again, or without Ray: {without}"
            ) from error
        except SystemExit as stop:  # raised by Ray's SIGTERM handler, without a message
            raise KeyboardInterrupt from stop
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, sigterm)  # ray.init has replaced it
        yield
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Refuse HOST:PORT if nothing listens there: ray.init would retry forever without a message."""
    host, colon, port = address.rpartition(":")
    if not colon or "://" in address:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"--ray-address {address}: no Ray cluster can be joined there: {error}") from error
