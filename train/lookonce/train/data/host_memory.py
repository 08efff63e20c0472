"""Where batches are gathered: ordinary memory, or page-locked memory that a GPU copies from while it computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class HostMemory:
    """Memory for batches; thread-safe.

    Page-locked blocks are not locked anew for every batch: torch keeps those that are freed, and hands one out again
    when the copies that were enqueued from it are done.

    Args:
        page_locked: for batches that go to a GPU.
    """

    def __init__(self, *, page_locked: bool = False) -> None:
        self._page_locked = page_locked

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
        """A tensor to be filled through its ``numpy()``."""
        if not self._page_locked:
            return torch.from_numpy(np.empty(tuple(shape), dtype))  # numpy asks for huge pages: far fewer page faults
        return torch.empty(tuple(shape), dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=True)

    def holding(self, values: NDArray[Any]) -> Tensor:
        """A tensor of these values: themselves, or a copy in page-locked memory."""
        if not self._page_locked:
            return torch.from_numpy(np.ascontiguousarray(values))
        held = self.empty(values.shape, values.dtype)
        held.numpy()[...] = values
        return held
