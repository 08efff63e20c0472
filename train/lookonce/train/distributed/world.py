"""The processes of one run: who is who, and the few words they exchange beside gradients.

A run is the same whatever their number: each process computes a part of every global batch (``batch_parts``), and
gradients and losses are sums over parts. What may go wrong in one process alone (a signal, a damaged shard) is told to
all before each step over a group of its own on the CPU, so that none waits for a process that has given up. A process
that dies without a word closes its connections, which the others notice at once.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from lookonce.shared.errors import DistributedError, EndedElsewhereError, Interrupted, LookonceError, UsageError
from lookonce.shared.faults.machine_errors import machine_error
from lookonce.shared.stopping import waiting

TIMEOUT = datetime.timedelta(minutes=10)
"""How long a process waits for one that lives and does not answer, before it gives up with an error."""

STEP_PATIENCE = 60.0
"""Seconds from a signal in which arithmetic that exchanges numbers with other processes must be over."""

RESTART_COUNT = "LOOKONCE_RESTART_COUNT"
"""Environment: how often a launcher other than torchrun has started the run again."""

Result = TypeVar("Result")


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
    def is_leader(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def parts(self, passes: int = 1) -> tuple[int, range]:
        """How many parts a global batch is cut into, and which are this process's, for some forward passes a step.

        >>> World(rank=1, size=3).parts(2)
        (6, range(2, 4))
        """
        return self.size * passes, range(self.rank * passes, (self.rank + 1) * passes)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, exchanged on the CPU, back where the values were; every process has to call it."""
        if self.size == 1:
            return values
        summed = values.detach().to("cpu", copy=True)
        with _exchange_errors("summing up losses"):
            dist.all_reduce(summed, group=self.control)
        return summed.to(values.device)

    def agree(self, error: LookonceError | None = None) -> LookonceError | None:
        """Go on together or end together; every process has to call it, each with its own trouble or None.

        Trouble goes before a stop that was asked for; of several processes in trouble, the first one speaks.

        Returns:
            None: go on. Else what to raise here: its own error in the process that speaks for the run,
            :class:`EndedElsewhereError` in all others.
        """
        if self.size == 1:
            return error
        kind = 0 if error is None else 1 if isinstance(error, Interrupted) else 2
        with _exchange_errors("agreeing on the next step"):
            word = torch.tensor(kind * self.size + self.size - 1 - self.rank)
            dist.all_reduce(word, op=dist.ReduceOp.MAX, group=self.control)
            worst, speaker = int(word) // self.size, self.size - 1 - int(word) % self.size
            if worst == 0:
                return None
            said: list[Any] = [error]
            dist.broadcast_object_list(said, src=speaker, group=self.control)
        if speaker == self.rank:
            return error
        return EndedElsewhereError(f"ended with process {speaker} of this run, which said: {said[0]}", said[0])

    def raise_on_all(self, work: Callable[[], Result]) -> Result:
        """Do something that may fail in one process alone; where it does, all end with it.

        Raises:
            LookonceError: as ``work`` raises; see :meth:`agree`.
        """
        result, error = None, None
        try:
            result = work()
        except LookonceError as raised:
            error = raised
        error = self.agree(error)
        if error is not None:
            raise error
        return cast("Result", result)

    def from_leader(self, ask: Callable[[], Any]) -> Any:
        """What the leading process finds, told to all, so that a shared folder is looked at once.

        Raises:
            LookonceError: as ``ask`` raises; see :meth:`agree`.
        """
        said: list[Any] = [self.raise_on_all(lambda: ask() if self.is_leader else None)]
        if self.size > 1:
            with _exchange_errors("agreeing on a checkpoint"):
                dist.broadcast_object_list(said, src=0, group=self.control)
        return said[0]


SINGLE_PROCESS = World()
"""A run of one process."""


@contextlib.contextmanager
def joined_world(*, cuda: bool) -> Generator[World, None, None]:
    """Join the processes that ``torchrun`` (or another launcher that sets its environment) has started.

    Args:
        cuda: NCCL beside gloo; else gloo alone.

    Yields:
        ``SINGLE_PROCESS`` where there is one process.

    Raises:
        DistributedError: the others do not answer.
        UsageError: the launcher has not said who is who, or this process finds no GPU of its own.
    """
    size = world_size()
    if size == 1:
        yield SINGLE_PROCESS
        return
    local_rank = _environment_number("LOCAL_RANK", otherwise=0)
    started_here = not dist.is_initialized()
    if started_here:
        if cuda:
            _require_own_gpu(local_rank)
            torch.cuda.set_device(local_rank)
        with _exchange_errors("joining the run"):
            _join("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        with _exchange_errors("joining the run"):
            control = dist.new_group(backend="gloo", timeout=TIMEOUT)
        yield World(rank=dist.get_rank(), size=size, local_rank=local_rank, control=control)
    finally:
        if started_here:
            dist.destroy_process_group()


def world_size() -> int:
    """How many processes this run has, as a launcher has told this one by ``WORLD_SIZE``; 1 without a launcher.

    Raises:
        UsageError: it is not a number of processes.
    """
    size = _environment_number("WORLD_SIZE", otherwise=1)
    if size < 1:
        raise UsageError(f"the environment says WORLD_SIZE={size}; expected at least 1 process: unset it")
    return size


def _environment_number(name: str, *, otherwise: int) -> int:
    value = os.environ.get(name, str(otherwise))
    try:
        return int(value)
    except ValueError as error:
        raise UsageError(
            f"the environment says {name}={value}; expected a whole number, as torchrun sets it, or unset"
        ) from error


def _join(backend: str) -> None:
    """Join the default group.

    torchrun keeps one store for all its starts, with the addresses of those that died in it. On one machine they are
    told apart by its count; machines count each for itself, so README tells a run of several to have a store a start.
    """
    _require_known_address()
    try:
        store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"WORLD_SIZE says that this is one of several processes, but not which and where ({reason}); start them by "
            "torchrun, or unset WORLD_SIZE"
        ) from error
    if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
        store = PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)


def _require_known_address() -> None:
    """Refuse a MASTER_ADDR that no name server knows: torch would look for it for minutes, in silence."""
    address = os.environ.get("MASTER_ADDR")
    if address is None:
        return
    try:
        socket.getaddrinfo(address, None)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"MASTER_ADDR={address}: this machine knows no such host ({error}); give all processes the address of "
            "process 0's machine (torchrun --master-addr, or --rdzv-endpoint HOST:PORT)"
        ) from error


def _require_own_gpu(local_rank: int) -> None:
    gpus = torch.cuda.device_count()
    if local_rank >= gpus:
        raise UsageError(
            f"process {local_rank} (from 0) of this machine finds no GPU of its own, of {gpus} that torch sees; start "
            f"at most {gpus} processes (torchrun --nproc-per-node={gpus}), or give --device cpu"
        )


def started_again() -> bool:
    """Whether a launcher has started this process in place of one that died: the run goes on, whatever was asked."""
    return any(os.environ.get(name, "0") != "0" for name in ("TORCHELASTIC_RESTART_COUNT", RESTART_COUNT))


@contextlib.contextmanager
def exchanging(doing: str) -> Generator[None, None, None]:
    """Around arithmetic that also exchanges numbers (a backward pass): tells a lost process from an error of our own.

    Raises:
        DistributedError: the connection to another process is gone. All other errors pass as they are.
    """
    try:
        with waiting(STEP_PATIENCE) if dist.is_initialized() else contextlib.nullcontext():
            yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(word in str(error) for word in _NETWORK):
            raise
        raise _lost(doing, error) from error


_NETWORK = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL")
"""What torch's bare RuntimeError says when an exchange fails; gloo's names its own source file."""


@contextlib.contextmanager
def _exchange_errors(doing: str) -> Generator[None, None, None]:
    """Around an exchange alone: torch says that another process is gone with a bare RuntimeError."""
    try:
        with waiting():
            yield
    except RuntimeError as error:
        raise _lost(doing, error) from error


def _lost(doing: str, error: RuntimeError) -> LookonceError:
    known = machine_error(error)  # a port that is taken, an address that is not there
    if known is not None:
        return known
    reason = " ".join(str(error).split())[:200]
    return DistributedError(
        f"{doing}: another process of this run does not answer ({reason}); look for its own error above, then "
        "start the run again: it goes on from the newest checkpoint"
    )
