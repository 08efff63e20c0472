"""What a process that computes on CPUs does with memory that it frees: it keeps it for the next batch.

Every forward allocates and frees the same megabytes. glibc gives them back, and the next forward waits for the kernel
to clear them page by page: a twentieth of a training step on CPUs, and a few percent of a teacher's forward, more in
some processes than in others. A process that keeps them stays as large as it ever was until it ends.
"""

from __future__ import annotations

import ctypes
import os

KEPT = {-8: 1, -4: 0, -1: -1}
"""Numbers of glibc's options with our values: M_ARENA_MAX, one heap for all threads, as the others cannot grow beyond
64 MB; M_MMAP_MAX, large blocks come from it too; M_TRIM_THRESHOLD, it never shrinks. See mallopt(3)."""

CHOSEN_BY_THE_USER = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Beginnings of environment variables that say how memory is to be had: then nothing is changed."""


def keep_freed_memory(device: str) -> bool:
    """Let this process keep what it frees; call it before other threads run, as they keep heaps that they have.

    So it is of little use in Ray's workers, which have a dozen before our code runs; there nothing was gained.

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
    return all(set_option(option, value) for option, value in KEPT.items())


def _chosen() -> bool:
    return any(name.startswith(CHOSEN_BY_THE_USER) for name in os.environ)
