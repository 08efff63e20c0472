"""Teacher threads: each runs whole batches through the teacher, so that the teacher never waits for other work.

On CPUs every thread computes on its own cores: no core waits for another one at the end of a matrix product, and while
one thread encodes, the others run the teacher. On a GPU every thread has its own CUDA stream. Forward passes run one
after the other, but a thread launches its kernels while the previous forward pass runs, so that the device is not idle
between two batches.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_CPU_THREADS = 8
"""Most threads on CPUs, because each keeps the activations of a batch; above it, each thread gets more cores."""

GPU_THREADS = 4
"""One computes, one has launched its kernels, two copy and prepare."""


@dataclass
class ForwardTime:
    """Duration of a forward pass."""

    cpu_seconds: float = 0.0
    """CPU time of the thread."""
    events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
    """Start and end on a GPU."""

    def seconds(self) -> float:
        """CPU time of the thread; on a GPU, time on the device: waits until the forward pass has ended."""
        if self.events is not None:
            started, ended = self.events
            ended.synchronize()
            return float(started.elapsed_time(ended)) / 1000
        return self.cpu_seconds


def idle_cores_note(device: torch.device) -> str | None:
    """A note for the user if an environment variable limits torch to some of the CPU cores; otherwise None.

    Args:
        device: device of the teacher.
    """
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    given = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)}
    if device.type != "cpu" or threads >= cores or not given:
        return None
    setting = " ".join(f"{name}={value}" for name, value in given.items())
    return (
        f"the teacher uses {threads} of {cores} CPU cores because {setting} is set in the environment; unset it to use "
        "all"
    )


class TeacherThreads:
    """The threads of one teacher.

    Attributes:
        count: number of threads.
        threads: cores that torch uses in each of them.
        on_gpu: whether the teacher is on a GPU.

    Args:
        device: device of the teacher.
        threads: CPU cores to use.
    """

    def __init__(self, device: torch.device, threads: int) -> None:
        self._device, self._launch_lock = device, threading.Lock()
        self._streams = threading.local()
        self._last_forward: torch.cuda.Event | None = None
        self.on_gpu = device.type == "cuda"
        self.count = GPU_THREADS if self.on_gpu else max(1, min(MAX_CPU_THREADS, threads))
        self.threads = max(1, threads // self.count)

    def open(self) -> ThreadPoolExecutor:
        """Start the threads, each with its torch settings and its CUDA stream."""
        return ThreadPoolExecutor(self.count, thread_name_prefix="lookonce-teacher", initializer=self._set_up_thread)

    def _set_up_thread(self) -> None:
        torch.set_num_threads(self.threads)  # per thread
        if self.on_gpu:
            torch.cuda.synchronize(self._device)  # until the weights are copied
            self._streams.own = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A uint8 array for views; page-locked for a GPU, where torch keeps and reuses the memory."""
        if self.on_gpu:
            pinned: NDArray[np.uint8] = torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
            return pinned
        return np.empty(shape, dtype=np.uint8)

    def stream(self) -> contextlib.AbstractContextManager[object]:
        """A context in which GPU work goes to the stream of this thread."""
        return torch.cuda.stream(self._streams.own) if self.on_gpu else contextlib.nullcontext()

    @contextlib.contextmanager
    def forward(self) -> Generator[ForwardTime, None, None]:
        """A context that launches and times a forward pass.

        On a GPU the forward pass starts on the device when the previous one, launched by another thread, has ended;
        the thread itself does not wait.
        """
        spent = ForwardTime()
        if not self.on_gpu:
            started = time.thread_time()
            yield spent
            spent.cpu_seconds = time.thread_time() - started
            return
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        stream = self._streams.own
        with self._launch_lock:
            if self._last_forward is not None:
                stream.wait_event(self._last_forward)
            begun.record(stream)
            yield spent
            ended.record(stream)
            self._last_forward = ended
        spent.events = (begun, ended)

    def wait(self) -> None:
        """Wait until the GPU has finished the work of this thread."""
        if self.on_gpu:
            self._streams.own.synchronize()

    def to_device(self, values: Tensor) -> Tensor:
        """A copy on the device, asynchronous if the values are page-locked; on CPUs the values themselves."""
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
