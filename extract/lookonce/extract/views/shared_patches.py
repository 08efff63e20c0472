"""Memory that a process shares with a process it started, for patches."""

from __future__ import annotations

import math
import mmap
import os

import numpy as np
from numpy.typing import NDArray


class SharedPatches:
    """An array of bytes in anonymous shared memory, which grows with its largest shape.

    It does not lie in /dev/shm, which has 64 MB in a container of Docker.

    Args:
        descriptor: of the memory, of which this object becomes the owner; None: creates it.

    Raises:
        OSError: the system refuses memory or descriptors.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = os.memfd_create("lookonce-views") if descriptor is None else descriptor
        self._creates = descriptor is None
        self._mapped: mmap.mmap | None = None

    def array(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The start of the memory as uint8 of a shape; the creator asks first.

        Raises:
            OSError: the system has no memory or address space left.
        """
        count = math.prod(shape)
        if self._mapped is None or len(self._mapped) < count:
            if self._creates:
                os.ftruncate(self.descriptor, count)
            self._mapped = mmap.mmap(self.descriptor, count)
        return np.frombuffer(self._mapped, np.uint8, count).reshape(shape)

    def close(self) -> None:
        """Close the descriptor; arrays stay valid."""
        self._mapped = None
        os.close(self.descriptor)
