"""Memory for batches: ordinary, or page-locked so that a GPU copies from it while it computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class HostMemory:
    """Memory for batches; thread-safe.

    torch keeps freed page-locked blocks and reuses a block once the copies from it are done, so a new batch does not
    lock pages again.

    Args:
        page_locked: whether the batches go to a GPU.
    """

    def __init__(self, *, page_locked: bool = False) -> None:
        self._page_locked = page_locked

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
        """An uninitialised tensor; fill it through its ``numpy()``."""
        if not self._page_locked:
            return torch.from_numpy(np.empty(tuple(shape), dtype))  # numpy asks for huge pages: far fewer page faults
        return torch.empty(tuple(shape), dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=True)

    def tensor(self, values: NDArray[Any]) -> Tensor:
        """The values as a tensor: without a copy, or copied to page-locked memory."""
        if not self._page_locked:
            return torch.from_numpy(np.ascontiguousarray(values))
        copied = self.empty(values.shape, values.dtype)
        copied.numpy()[...] = values
        return copied
