"""Copies batches to a GPU on a separate stream, while the GPU computes."""

from __future__ import annotations

import collections
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from lookonce.train.data.batch import Batch

PASSES_AHEAD = 2
"""Forward passes that may be enqueued on a GPU before the next batch is copied; bounds the GPU memory of batches."""


class DeviceCopies:
    """Copies batches to the device that computes on them; copies nothing on a CPU.

    The trainer enqueues a step and takes the next batch while the GPU still computes. Copies on a separate stream run
    at once, and only the kernels that read a batch wait for its copy.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._enqueued: collections.deque[Any] = collections.deque()

    def take(self, batch: Batch) -> Batch:
        """The batch on the device, for use on the current stream."""
        if self._stream is None:
            return batch
        computing = torch.cuda.current_stream(self._device)
        self._enqueued.append(computing.record_event())
        if len(self._enqueued) > PASSES_AHEAD:
            self._enqueued.popleft().synchronize()
        with torch.cuda.stream(self._stream):
            copied = batch.to(self._device)
        computing.wait_stream(self._stream)
        _used_on(copied, computing)
        return copied


def _used_on(value: Any, stream: torch.cuda.Stream) -> None:
    """Keep torch from reusing the memory of tensors on the copying stream while ``stream`` reads it."""
    if isinstance(value, Tensor):
        value.record_stream(stream)
    elif isinstance(value, tuple):
        for item in value:
            _used_on(item, stream)
    elif is_dataclass(value):
        for field in fields(value):
            _used_on(getattr(value, field.name), stream)
