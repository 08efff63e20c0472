"""The processes of one run: who is who, and the few words they exchange beside gradients.

A run is the same whatever their number: each process computes a part of every global batch (``batch_parts``), and
gradients and losses are sums over parts. What may go wrong in one process alone (a signal, a damaged shard) is told to
all before each step over a group of its own on the CPU, so that none waits for a process that has given up.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lookonce.shared.errors import DistributedError, LookonceError

TIMEOUT = datetime.timedelta(minutes=10)
"""How long a process waits for the others before it gives up with an error."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Number among the processes of this machine: its GPU."""
    control: Any = None
    """Process group of the words exchanged on the CPU; None for a single process."""

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, on the CPU; every process has to call it."""
        if self.size > 1:
            values = values.detach().cpu()
            with _told_apart("summing up losses"):
                dist.all_reduce(values, group=self.control)
        return values

    def worst(self, code: int) -> int:
        """The greatest of the processes' numbers; every process has to call it."""
        if self.size == 1:
            return code
        worst = torch.tensor(code)
        with _told_apart("agreeing on the next step"):
            dist.all_reduce(worst, op=dist.ReduceOp.MAX, group=self.control)
        return int(worst)

    def first_says(self, ask: Callable[[], Any]) -> Any:
        """What the leading process finds, told to all, so that a shared folder is looked at once.

        Raises:
            LookonceError: what ``ask`` raises, in every process.
        """
        if self.size == 1:
            return ask()
        said: list[Any] = [None, None]
        if self.leads:
            try:
                said[0] = ask()
            except LookonceError as error:
                said[1] = error
        with _told_apart("agreeing on a checkpoint"):
            dist.broadcast_object_list(said, src=0, group=self.control)
        if said[1] is not None:
            raise said[1]
        return said[0]


ALONE = World()
"""A run of one process."""


@contextlib.contextmanager
def joined_world(device: str) -> Iterator[World]:
    """Join the processes that ``torchrun`` (or another launcher that sets its environment) has started.

    Args:
        device: ``cuda`` for NCCL beside gloo, anything else for gloo alone.

    Yields:
        ``ALONE`` where there is one process.

    Raises:
        DistributedError: the others do not answer.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    started_here = not dist.is_initialized()
    if started_here:
        if device == "cuda":
            torch.cuda.set_device(local_rank)
        with _told_apart("joining the run"):
            dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        control = dist.new_group(backend="gloo", timeout=TIMEOUT)
        yield World(rank=dist.get_rank(), size=size, local_rank=local_rank, control=control)
    finally:
        if started_here:
            dist.destroy_process_group()


def batch_parts(samples: int, parts: int) -> list[slice]:
    """A global batch cut into consecutive parts of nearly equal size; some are empty where samples are few.

    >>> batch_parts(7, 3)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    borders = [samples * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(borders)]


@contextlib.contextmanager
def _told_apart(doing: str) -> Iterator[None]:
    """torch says that another process is gone with a bare RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise DistributedError(
            f"{doing}: another process of this run does not answer ({reason}); look for its own error above, then "
            "start the run again: it goes on from the newest checkpoint"
        ) from error
