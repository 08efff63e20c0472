"""What a process that computes on CPUs does with memory that it frees: it keeps it for the next batch."""

from __future__ import annotations

import ctypes
import os

KEPT = {-8: 1, -4: 0, -1: -1}
"""glibc's M_ARENA_MAX (one heap for all threads, as the others cannot grow beyond 64 MB), M_MMAP_MAX (large blocks come
from it too) and M_TRIM_THRESHOLD (it never shrinks); see mallopt(3)."""

CHOSEN_BY_THE_USER = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Beginnings of environment variables that say how memory is to be had: then nothing is changed."""


def keep_freed_memory(device: str) -> bool:
    """Let this process keep what it frees instead of giving it back to the operating system; call it early.

    Every forward allocates and frees the same megabytes. glibc gives them back, and the next forward waits for the
    kernel to clear them page by page: a tenth of a training step on CPUs, and a few percent of a teacher's forward,
    more in some processes than in others. A process needs no more memory at its peak than before.

    Args:
        device: ``cpu``, or where else tensors are: there nothing is changed.

    Returns:
        Whether the setting was made; it is not with other C libraries, or where the environment chooses.
    """
    if device != "cpu" or any(name.startswith(CHOSEN_BY_THE_USER) for name in os.environ):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all([set_option(option, value) for option, value in KEPT.items()])
