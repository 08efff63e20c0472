"""Tensors that processes hold in pieces (DTensor): gathered, cut, looked at; any other tensor is whole already.

A DTensor is told by what it can do, so that a run without pieces imports nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn


def full_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor; where processes hold pieces of it, every one of them has to call this."""
    gather = getattr(tensor, "full_tensor", None)
    gathered: Tensor = tensor if gather is None else gather()
    return gathered


def local_tensor(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    local = getattr(tensor, "to_local", None)
    held: Tensor = tensor if local is None else local()
    return held


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, known to every process, cut as another one is."""
    if not hasattr(like, "to_local") or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    pieces = cast("DTensor", like)
    return distribute_tensor(tensor.to(like.device), pieces.device_mesh, pieces.placements, src_data_rank=None)


def full_state(module: nn.Module, optimizer: torch.optim.Optimizer, *, keep: bool = True) -> dict[str, Any]:
    """State dicts with whole tensors, one gathered after the other; every process has to call it.

    Args:
        module: what is optimised.
        optimizer: over the module's parameters.
        keep: False leaves the tensors out again, one by one: for processes that only help to gather.
    """
    state: dict[str, Any] = _gathered({"module": module.state_dict(), "optimizer": optimizer.state_dict()}, keep=keep)
    return state


def restore_full_state(state: Mapping[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put back what :func:`whole_state` gave, into a module that may hold its parameters in pieces."""
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
