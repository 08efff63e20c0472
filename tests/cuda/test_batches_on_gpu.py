"""Batches come to the GPU whole, whatever lay in the memory before and however long it still computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from lookonce.train.data.batch import Batch, StoredTargets
from lookonce.train.data.device_copies import DeviceCopies
from lookonce.train.data.host_memory import HostMemory

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("default")]

POISON = 0xA5


def filled(memory: HostMemory, number: int, samples: int) -> Batch:
    """A batch that only this number has, gathered as the trainer gathers."""
    generator = np.random.default_rng(number)

    def gathered(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        tensor = memory.empty(shape, np.dtype(dtype))
        values = tensor.numpy()
        values.view(np.uint8)[...] = POISON
        values[...] = generator.integers(0, 100, shape)
        return tensor

    targets = StoredTargets(
        elements=gathered((samples, 17, 5, 256), "uint8"),
        token_mean=gathered((samples, 17, 5), "float32"),
        token_std=gathered((samples, 17, 5), "float32"),
    )
    return Batch(
        visible_pixels=gathered((samples, 16, 768), "uint8"),
        visible_ids=memory.tensor(np.sort(generator.permuted(np.tile(np.arange(49), (samples, 1)), axis=1)[:, :16])),
        targets=(targets,),
        branch_scales=gathered((12, 2, samples), "float32"),
        share=number / 100,
    )


def tensors(batch: Batch) -> list[torch.Tensor]:
    stored = batch.targets[0]
    found = [batch.visible_pixels, batch.visible_ids, batch.branch_scales, stored.elements, stored.token_mean]
    assert all(tensor is not None for tensor in found)
    return [*found, stored.token_std]  # type: ignore[list-item]


def test_no_batch_is_seen_half_copied(
    device: torch.device, host_memory: HostMemory, poison: Callable[[], None]
) -> None:
    samples, count = (1024, 24) if device.type == "cuda" else (4, 6)
    copies, seen = DeviceCopies(device), []
    poison()
    for number in range(count):
        batch = filled(host_memory, number, samples)
        if device.type == "cuda":
            assert all(tensor.is_pinned() for tensor in tensors(batch))
        taken = copies.take(batch)
        shapes = [(tensor.shape, tensor.numpy().dtype) for tensor in tensors(batch)]
        del batch  # from here on its memory may be handed out, and is written to at once
        for shape, dtype in shapes:
            host_memory.empty(shape, dtype).numpy().view(np.uint8)[...] = POISON
        if device.type == "cuda":
            torch.cuda._sleep(20_000_000)  # cycles, some 10 ms: kernels that read the batch are late
        seen.append([tensor.clone() for tensor in tensors(taken)])
        assert taken.share == number / 100
        del taken  # on the GPU too, memory may be handed out, to the next copies
    for number, found in enumerate(seen):
        for mine, wanted in zip(found, tensors(filled(HostMemory(), number, samples)), strict=True):
            assert mine.device.type == device.type
            assert torch.equal(mine.cpu(), wanted), f"batch {number}"
