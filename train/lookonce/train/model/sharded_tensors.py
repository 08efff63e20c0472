"""Gathers and shards tensors that are spread over processes (DTensor); returns all other tensors unchanged.

A DTensor is recognised by its methods, so that a run without FSDP does not import it. ``get_state_dict`` of
torch.distributed.checkpoint would gather as well, but names the optimizer's state by parameter, and the files of
earlier runs number it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor; every process has to call this for a sharded one."""
    gather = getattr(tensor, "full_tensor", None)
    gathered: Tensor = tensor if gather is None else gather()
    return gathered


def local_tensor(tensor: Tensor) -> Tensor:
    """This process's part of a tensor."""
    local = getattr(tensor, "to_local", None)
    part: Tensor = tensor if local is None else local()
    return part


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Shard a full tensor, which every process has, as another tensor is sharded."""
    if not hasattr(like, "to_local") or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    sharded = cast("DTensor", like)
    return distribute_tensor(tensor.to(like.device), sharded.device_mesh, sharded.placements, src_data_rank=None)


def full_state(module: nn.Module, optimizer: torch.optim.Optimizer, *, keep: bool = True) -> dict[str, Any]:
    """State dicts with full tensors, gathered one by one; every process has to call it.

    Args:
        module: the module that is optimised.
        optimizer: over the module's parameters.
        keep: False drops each tensor once it is gathered, for processes that only take part.
    """
    state: dict[str, Any] = _gathered({"module": module.state_dict(), "optimizer": optimizer.state_dict()}, keep=keep)
    return state


def restore_full_state(state: Mapping[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the result of :func:`full_state` into a module whose parameters may be sharded."""
    own = module.state_dict()
    module.load_state_dict({name: shard_like(value, own.get(name, value)) for name, value in state["module"].items()})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        number: {name: shard_like(value, parameters[number]) for name, value in values.items()}
        for number, values in state["optimizer"]["state"].items()
    }
    optimizer.load_state_dict({**state["optimizer"], "state": moments})


def _gathered(value: Any, *, keep: bool) -> Any:
    if isinstance(value, Tensor):
        if not hasattr(value, "full_tensor"):
            return value
        gathered = full_tensor(value)
        return gathered.cpu() if keep else None
    if isinstance(value, Mapping):
        return {name: _gathered(item, keep=keep) for name, item in value.items()}
    if isinstance(value, list):
        return [_gathered(item, keep=keep) for item in value]
    return value
