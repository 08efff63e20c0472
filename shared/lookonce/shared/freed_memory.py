"""What a process that computes on CPUs does with memory that it frees: it keeps it for the next batch.

Every forward allocates and frees the same megabytes. glibc gives them back, and the next forward waits for the kernel
to clear them page by page: a tenth of a training step on CPUs, and a few percent of a teacher's forward, more in some
processes than in others. A process that keeps them stays as large as it ever was until it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

KEPT = {
    "MALLOC_ARENA_MAX": (-8, 1),
    "MALLOC_MMAP_MAX_": (-4, 0),
    "MALLOC_TRIM_THRESHOLD_": (-1, (1 << 31) - 1),
}
"""glibc's environment variables with the numbers of their options and our values: one heap for all threads, as the
others cannot grow beyond 64 MB; large blocks come from it too; it does not shrink below 2 GiB. See mallopt(3)."""

CHOSEN_BY_THE_USER = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Beginnings of environment variables that say how memory is to be had: then nothing is changed."""


def keep_freed_memory(device: str) -> bool:
    """Let this process keep what it frees; call it before other threads run, as they keep heaps that they have.

    Args:
        device: ``cpu``, or where else tensors are: there nothing is changed.

    Returns:
        Whether the setting was made; it is not with other C libraries, or where the environment chooses.
    """
    if device != "cpu" or _chosen():
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all([set_option(option, value) for option, value in KEPT.values()])


@contextlib.contextmanager
def children_keep_freed_memory(device: str) -> Iterator[None]:
    """The same for processes that are started within and have threads before our code runs in them (Ray's)."""
    added = {} if device != "cpu" or _chosen() else {name: str(value) for name, (_, value) in KEPT.items()}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _chosen() -> bool:
    return any(name.startswith(CHOSEN_BY_THE_USER) for name in os.environ)
