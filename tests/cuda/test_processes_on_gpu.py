"""DDP and FSDP over NCCL with one process: the same losses and weights as without, so that the wiring is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from golden_curve import CACHE, fixed_numbers, golden_config
from torch import Tensor

from lookonce.train.config import TrainingConfig
from lookonce.train.distributed.parallel import DdpForward, Forward, FsdpForward, parallel_forward
from lookonce.train.distributed.world import SINGLE_PROCESS
from lookonce.train.loop.training_state import TrainingState
from lookonce.train.setup import TrainingSetup, set_up

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("default")]

STEPS = 8


@pytest.fixture
def one_process(device: torch.device) -> Iterator[None]:
    """A process group of this process alone, with the backends of the trainer."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # pyright: ignore[reportPrivateImportUsage]
    yield
    dist.destroy_process_group()


def train(config: TrainingConfig, share: Callable[[TrainingSetup], Forward]) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of some steps in two parts each, the first of which is not exchanged; and the weights behind them."""
    setup = set_up(config)
    forward = share(setup)
    state = TrainingState(config, setup, SINGLE_PROCESS)
    setup.model.train()
    losses = []
    for step in range(STEPS):
        samples = setup.input.order.step(step)
        state.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in (slice(0, 3), slice(3, 8)):
            batch = setup.input.batches.batch(samples, part).to(setup.device)
            loss = forward(batch).loss * batch.share
            loss.backward()
            total += float(loss.detach())
        state.update()
        losses.append(total)
    saved = state.full_state()
    assert saved is not None
    return losses, saved["module"]


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "fsdp-compiled"])
def test_one_process_of_many_computes_what_one_alone_does(
    write_training_cache: Callable[..., Path], tmp_path: Path, device: torch.device, one_process: None, kind: str
) -> None:
    if kind == "fsdp-compiled" and device.type == "cpu":
        pytest.skip("compiling takes a minute on a CPU")
    cache = write_training_cache(tmp_path / "cache", **CACHE, make_arrays=fixed_numbers)
    config = golden_config(cache, tmp_path / "run", device=device.type, parallel=kind.partition("-")[0])

    def alone(setup: TrainingSetup) -> Forward:
        return parallel_forward(setup.model, config, device, SINGLE_PROCESS)

    def shared(setup: TrainingSetup) -> Forward:
        if kind == "ddp":
            return DdpForward(setup.model, device, unused=False)
        return FsdpForward(setup.model, device, SINGLE_PROCESS, compile_blocks=kind == "fsdp-compiled")

    expected, weights = train(replace(config, parallel="ddp"), alone)
    losses, found = train(config, shared)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert losses[-1] != losses[0]
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert found[name].shape == value.shape
        torch.testing.assert_close(found[name].cpu(), value.cpu(), rtol=1e-3, atol=2e-4)
