"""What the checks of a GPU share: the device, and memory that holds what no right result does."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest
import torch
from cuda_dry import DRY
from torch._dynamo.utils import counters

from lookonce.train.data.host_memory import HostMemory

POISON = 0xA5
"""A byte that stands in memory before it is handed out; four of them are a float of about -3e-16."""


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU; with LOOKONCE_CUDA_DRY=1 the CPU, where the same tests run so that none is broken on the day."""
    if DRY:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here; LOOKONCE_CUDA_DRY=1 plays these tests on the CPU")
    return torch.device("cuda", 0)


@pytest.fixture
def poison(device: torch.device) -> Callable[[], None]:
    """Fill memory that torch keeps for reuse, the GPU's and page-locked, so that what nobody wrote is seen."""

    def fill() -> None:
        if device.type == "cpu":
            return
        torch.cuda.synchronize(device)
        for size in (1 << 10, 1 << 15, 1 << 20, 3 << 20, 1 << 25, 1 << 28):
            held = [torch.full((size,), POISON, dtype=torch.uint8, device=device) for _ in range(4)]
            if size < 1 << 28:
                held += [torch.full((size,), POISON, dtype=torch.uint8, pin_memory=True) for _ in range(4)]
            del held
        torch.cuda.synchronize(device)

    return fill


@pytest.fixture
def host_memory(device: torch.device) -> HostMemory:
    """Where the trainer gathers batches for the device."""
    return HostMemory(page_locked=device.type == "cuda")


@pytest.fixture
def compiler(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing compiled, nothing counted; on the CPU graphs are run as they are: building them takes a minute."""
    if device.type == "cpu":
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
