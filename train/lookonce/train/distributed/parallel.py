"""The forward pass over several processes: replicated parameters (DDP), or sharded ones (FSDP2)."""

from __future__ import annotations

import contextlib
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lookonce.train.config import TrainingConfig
from lookonce.train.data.batch import Batch
from lookonce.train.distributed.world import World, gradient_exchange
from lookonce.train.model.alignment_step import AlignmentStep, StepOutput


class Forward(Protocol):
    """Computes the loss of a batch; the backward pass averages gradients over the processes."""

    def __call__(self, batch: Batch) -> StepOutput:
        """Loss of one batch."""
        ...

    def local(self) -> contextlib.AbstractContextManager[None]:
        """Within it, gradients accumulate in this process and are not exchanged."""
        ...


class SingleForward:
    """One process, without an exchange."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, batch: Batch) -> StepOutput:
        """Loss of one batch."""
        output: StepOutput = self._model(batch)
        return output

    def local(self) -> contextlib.AbstractContextManager[None]:
        """There is no exchange to defer."""
        return contextlib.nullcontext()


class DdpForward:
    """DDP: gradients are exchanged during the backward pass.

    Args:
        model: the same in every process.
        device: device of this process.
        unused: whether some parameters get no gradient.
    """

    def __init__(self, model: nn.Module, device: torch.device, *, unused: bool) -> None:
        devices = [device.index] if device.type == "cuda" else None
        self._model = DistributedDataParallel(model, device_ids=devices, find_unused_parameters=unused)

    def __call__(self, batch: Batch) -> StepOutput:
        """Loss of one batch."""
        output: StepOutput = self._model(batch)
        return output

    def local(self) -> contextlib.AbstractContextManager[None]:
        """Defer the exchange to the last pass of a step."""
        return self._model.no_sync()


class FsdpForward:
    """FSDP2: a block's parameters are gathered when it computes; its gradients are reduced to shards at once.

    Each student block, each teacher's adapters, and all other parameters together are sharded units. Create the
    optimizer afterwards: sharding replaces the module's parameters.

    Args:
        model: the same in every process; changed in place.
        device: device of this process.
        world: processes of the run.
        compile_blocks: whether to compile each student block.
    """

    def __init__(self, model: AlignmentStep, device: torch.device, world: World, *, compile_blocks: bool) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (world.size,))
        for block in model.student.model.blocks:
            if compile_blocks:
                block.compile()
            fully_shard(block, mesh=mesh)
        for alignment in model.alignments:
            fully_shard(alignment.adapters, mesh=mesh)
        self._tensors = _Tensors(model)
        fully_shard(self._tensors, mesh=mesh)

    def __call__(self, batch: Batch) -> StepOutput:
        """Loss of one batch."""
        loss, level_losses = self._tensors(batch)
        return StepOutput(loss=loss, level_losses=level_losses)

    def local(self) -> contextlib.AbstractContextManager[None]:
        """Every pass is exchanged: full gradients would need the memory that sharding saves."""
        return contextlib.nullcontext()


class _Tensors(nn.Module):
    """Returns tensors only: FSDP attaches its backward hooks to tensors, not to dataclasses."""

    def __init__(self, step: AlignmentStep) -> None:
        super().__init__()
        self.step = step

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        output: StepOutput = self.step(batch)
        return output.loss, output.level_losses


def parallel_forward(model: AlignmentStep, config: TrainingConfig, device: torch.device, world: World) -> Forward:
    """The forward pass for one of the run's processes.

    Raises:
        DistributedError: another process is gone.
    """
    if world.size > 1 and config.parallel == "fsdp":
        with gradient_exchange("joining the run"):
            return FsdpForward(model, device, world, compile_blocks=config.compile)
    compiled: nn.Module = torch.compile(model, fullgraph=True) if config.compile else model  # type: ignore[assignment]
    if world.size == 1:
        return SingleForward(compiled)
    with gradient_exchange("joining the run"):
        return DdpForward(compiled, device, unused=config.alignment == "layerwise")
