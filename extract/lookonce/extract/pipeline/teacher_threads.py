"""Lanes: threads that take whole batches through the teacher side by side, so that it never waits for chores.

On CPUs every lane computes on its own core: no core waits for another at the end of each matrix product, and while one
lane encodes, the others look. On a GPU every lane has a stream of its own; forwards run one after the other, but the
next lane launches its kernels while the one before computes, so that the device is never idle between two batches.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_CPU_THREADS = 8
"""Each lane holds the activations of a batch; beyond this many, lanes get more cores each instead."""

GPU_THREADS = 4
"""One computes, one has launched, and two copy and prepare."""


class ForwardTime:
    """How long a forward pass took."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None

    def seconds(self) -> float:
        """CPU time of the lane's thread; on a GPU, time on the device, known once the lane has waited for it."""
        if self._events is not None:
            started, ended = self._events
            ended.synchronize()
            return float(started.elapsed_time(ended)) / 1000
        return self._seconds


def idle_cores_note(device: torch.device) -> str | None:
    """What a user should know whose shell keeps torch from most of the CPU cores; None where it does not.

    Args:
        device: where the teacher of this process is.
    """
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    given = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)}
    if device.type != "cpu" or threads >= cores or not given:
        return None
    setting = " ".join(f"{name}={value}" for name, value in given.items())
    return (
        f"the teacher uses {threads} of {cores} CPU cores, as {setting} is set in the environment; unset it to use all"
    )


class TeacherThreads:
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
        self._last_forward: torch.cuda.Event | None = None
        self.on_gpu = device.type == "cuda"
        self.count = GPU_THREADS if self.on_gpu else max(1, min(MAX_CPU_THREADS, threads))
        self.threads = max(1, threads // self.count)

    def open(self) -> ThreadPoolExecutor:
        """The threads; what runs in them finds its own torch settings and its own CUDA stream."""
        return ThreadPoolExecutor(self.count, thread_name_prefix="lookonce-teacher", initializer=self._enter)

    def _enter(self) -> None:
        torch.set_num_threads(self.threads)  # a property of the thread
        if self.on_gpu:
            torch.cuda.synchronize(self._device)  # the weights have arrived
            self._streams.own = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def memory(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Memory for views; page-locked where they go to a GPU, which torch keeps and reuses."""
        if self.on_gpu:
            pinned: NDArray[np.uint8] = torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
            return pinned
        return np.empty(shape, dtype=np.uint8)

    def stream(self) -> contextlib.AbstractContextManager[object]:
        """Within, a GPU's work goes to the lane's own stream."""
        return torch.cuda.stream(self._streams.own) if self.on_gpu else contextlib.nullcontext()

    @contextlib.contextmanager
    def forward(self) -> Generator[ForwardTime, None, None]:
        """Within, a forward pass is launched, and timed.

        On a GPU it starts when the forward that another lane launched before has ended there; the lane itself waits
        for nothing.
        """
        spent = ForwardTime()
        if not self.on_gpu:
            started = time.thread_time()
            yield spent
            spent._seconds = time.thread_time() - started
            return
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        stream = self._streams.own
        with self._turn:
            if self._last_forward is not None:
                stream.wait_event(self._last_forward)
            begun.record(stream)
            yield spent
            ended.record(stream)
            self._last_forward = ended
        spent._events = (begun, ended)

    def wait(self) -> None:
        """Wait until the GPU has done what this lane gave it."""
        if self.on_gpu:
            self._streams.own.synchronize()

    def to_device(self, values: Tensor) -> Tensor:
        """A copy on the device, without waiting where the values are page-locked; on CPUs the values themselves."""
        if not self.on_gpu:
            return values
        pinned = values if values.is_pinned() else values.pin_memory()
        return pinned.to(self._device, non_blocking=True)

    def to_host(self, values: Tensor) -> Tensor:
        """A copy in page-locked memory, complete after ``wait``; on CPUs the values themselves."""
        if values.is_cpu:
            return values
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        return host.copy_(values, non_blocking=True)
