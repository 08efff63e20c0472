"""Lanes: threads that take whole batches through the teacher side by side, so that it never waits for chores.

On CPUs every lane computes on its own core: no core waits for another at the end of each matrix product, and while one
lane encodes, the others look. On a GPU, where forwards take turns, the second lane copies and prepares meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

MOST_CPU_LANES = 8
"""Each lane holds the activations of a batch; beyond this many, lanes get more cores each instead."""

GPU_LANES = 2


class Lanes:
    """The lanes of one teacher.

    Attributes:
        count: how many there are.
        threads: cores that torch uses in each.

    Args:
        device: where the teacher is.
        threads: CPU cores to compute with.
    """

    def __init__(self, device: torch.device, threads: int) -> None:
        self._device, self._turn = device, threading.Lock()
        self._streams = threading.local()
        self.count = GPU_LANES if device.type == "cuda" else max(1, min(MOST_CPU_LANES, threads))
        self.threads = max(1, threads // self.count)

    def open(self) -> ThreadPoolExecutor:
        """The threads; what runs in them finds its own torch settings and its own CUDA stream."""
        return ThreadPoolExecutor(self.count, thread_name_prefix="lookonce-lane", initializer=self._enter)

    def _enter(self) -> None:
        torch.set_num_threads(self.threads)  # a property of the thread
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the weights have arrived
            self._streams.own = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def stream(self) -> contextlib.AbstractContextManager[object]:
        """Within, a GPU's work goes to the lane's own stream."""
        return torch.cuda.stream(self._streams.own) if self._device.type == "cuda" else contextlib.nullcontext()

    def turn(self) -> contextlib.AbstractContextManager[object]:
        """Within, the lane has the device for itself: on a GPU one lane after the other, on CPUs always."""
        return self._turn if self._device.type == "cuda" else contextlib.nullcontext()

    def wait(self) -> None:
        """Wait until the GPU has done what this lane gave it."""
        if self._device.type == "cuda":
            self._streams.own.synchronize()

    def to_device(self, values: Tensor) -> Tensor:
        """A copy on the device; from page-locked memory, which torch keeps and reuses, and without waiting."""
        if self._device.type == "cuda":
            return values.pin_memory().to(self._device, non_blocking=True)
        return values

    def to_host(self, values: Tensor) -> Tensor:
        """A copy in memory, complete after ``wait``; on CPUs the values themselves."""
        if values.is_cpu:
            return values
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        return host.copy_(values, non_blocking=True)
