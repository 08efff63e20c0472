"""The processes of one run: their ranks, and the few messages they exchange beside gradients.

A run does not depend on their number: each process computes a part of every global batch (``batch_parts``), and
gradients and losses are sums over parts. Before each step, a separate process group on the CPU spreads errors that one
process alone has (a signal, a damaged shard), so that no process waits for one that has ended. A process that is killed
closes its connections, which the others notice at once.
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
"""Time after which a process gives up on another one that lives and does not answer."""

STEP_PATIENCE = 60.0
"""Seconds after a signal within which a forward and backward pass over several processes must end."""

RESTART_COUNT = "LOOKONCE_RESTART_COUNT"
"""Environment variable: number of restarts by a launcher other than torchrun."""

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a run, from the view of one of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank among the processes of this machine; also the number of its GPU."""
    control: Any = None
    """Process group for messages on the CPU; None for a single process."""

    @property
    def is_leader(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def parts(self, passes: int = 1) -> tuple[int, range]:
        """Number of parts of a global batch, and the numbers of this process's parts.

        Args:
            passes: forward passes per step in each process.


        >>> World(rank=1, size=3).parts(2)
        (6, range(2, 4))
        """
        return self.size * passes, range(self.rank * passes, (self.rank + 1) * passes)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, exchanged on the CPU, on the device of the values; every process has to call it."""
        if self.size == 1:
            return values
        summed = values.detach().to("cpu", copy=True)
        with _exchange_errors("summing up losses"):
            dist.all_reduce(summed, group=self.control)
        return summed.to(values.device)

    def agree(self, error: LookonceError | None = None) -> LookonceError | None:
        """Agree to continue or to end; every process has to call it, with its own error or None.

        Errors take precedence over interrupts; of several processes with an error, the lowest rank reports.

        Returns:
            None if all continue. Otherwise the error to raise: in the reporting process its own, in all others an
            :class:`EndedElsewhereError`.
        """
        if self.size == 1:
            return error
        kind = 0 if error is None else 1 if isinstance(error, Interrupted) else 2
        with _exchange_errors("agreeing on the next step"):
            code = torch.tensor(kind * self.size + self.size - 1 - self.rank)
            dist.all_reduce(code, op=dist.ReduceOp.MAX, group=self.control)
            worst, reporter = int(code) // self.size, self.size - 1 - int(code) % self.size
            if worst == 0:
                return None
            errors: list[Any] = [error]
            dist.broadcast_object_list(errors, src=reporter, group=self.control)
        if reporter == self.rank:
            return error
        return EndedElsewhereError(f"ended with process {reporter} of this run, which reports: {errors[0]}", errors[0])

    def raise_on_all(self, work: Callable[[], Result]) -> Result:
        """Call ``work``, which may fail in one process alone; if it fails anywhere, all processes raise.

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
        """Result of ``ask`` in the leader, broadcast to all, so that one process alone reads a shared folder.

        Raises:
            LookonceError: as ``ask`` raises; see :meth:`agree`.
        """
        results: list[Any] = [self.raise_on_all(lambda: ask() if self.is_leader else None)]
        if self.size > 1:
            with _exchange_errors("agreeing on a checkpoint"):
                dist.broadcast_object_list(results, src=0, group=self.control)
        return results[0]


SINGLE_PROCESS = World()
"""A run of one process."""


@contextlib.contextmanager
def joined_world(*, cuda: bool) -> Generator[World, None, None]:
    """Join the processes that ``torchrun`` (or another launcher with its environment variables) has started.

    Args:
        cuda: use NCCL beside gloo, otherwise gloo only.

    Yields:
        The processes of the run; ``SINGLE_PROCESS`` for a run of one.

    Raises:
        DistributedError: the others do not answer.
        UsageError: the launcher's environment is incomplete, or this process has no GPU of its own.
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
    """Number of processes of this run, from the launcher's ``WORLD_SIZE``; 1 without a launcher.

    Raises:
        UsageError: it is not a number of processes.
    """
    size = _environment_number("WORLD_SIZE", otherwise=1)
    if size < 1:
        raise UsageError(f"WORLD_SIZE={size} in the environment: expected at least 1 process; unset it")
    return size


def _environment_number(name: str, *, otherwise: int) -> int:
    value = os.environ.get(name, str(otherwise))
    try:
        return int(value)
    except ValueError as error:
        raise UsageError(
            f"{name}={value} in the environment: expected an integer, as torchrun sets it; unset it"
        ) from error


def _join(backend: str) -> None:
    """Join the default group.

    torchrun has one store for all restarts, which still contains the addresses of dead processes. On one machine its
    restart count separates them. Each machine counts for itself, so a run over several machines needs a new store per
    start, as the documentation says.
    """
    _require_known_address()
    try:
        store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"WORLD_SIZE asks for several processes, but the environment lacks rank or address ({reason}); start them "
            "with torchrun, or unset WORLD_SIZE"
        ) from error
    if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
        store = PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)


def _require_known_address() -> None:
    """Refuse a MASTER_ADDR that does not resolve: torch would retry silently for minutes."""
    address = os.environ.get("MASTER_ADDR")
    if address is None:
        return
    try:
        socket.getaddrinfo(address, None)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"MASTER_ADDR={address}: this host name does not resolve ({error}); give all processes the address of "
            "process 0's machine (torchrun --master-addr, or --rdzv-endpoint HOST:PORT)"
        ) from error


def _require_own_gpu(local_rank: int) -> None:
    gpus = torch.cuda.device_count()
    if local_rank >= gpus:
        raise UsageError(
            f"process {local_rank} (from 0) of this machine has no GPU of its own, torch finds {gpus}; start "
            f"at most {gpus} processes (torchrun --nproc-per-node={gpus}), or give --device cpu"
        )


def is_restart() -> bool:
    """Whether a launcher has restarted this process in place of one that died; such a run always resumes."""
    return any(os.environ.get(name, "0") != "0" for name in ("TORCHELASTIC_RESTART_COUNT", RESTART_COUNT))


@contextlib.contextmanager
def gradient_exchange(doing: str) -> Generator[None, None, None]:
    """Around a pass that also exchanges gradients: raises DistributedError for a lost process.

    Raises:
        DistributedError: the connection to another process is gone. Other errors pass unchanged.
    """
    try:
        with waiting(STEP_PATIENCE) if dist.is_initialized() else contextlib.nullcontext():
            yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(word in str(error) for word in _NETWORK):
            raise
        raise _lost(doing, error) from error


_NETWORK = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL")
"""Parts of the messages of torch's RuntimeError for a failed exchange; gloo's contains the path of its source."""


@contextlib.contextmanager
def _exchange_errors(doing: str) -> Generator[None, None, None]:
    """Around an exchange only: torch raises a bare RuntimeError if another process is gone."""
    try:
        with waiting():
            yield
    except RuntimeError as error:
        raise _lost(doing, error) from error


def _lost(doing: str, error: RuntimeError) -> LookonceError:
    known = machine_error(error)  # a port in use, an unknown address
    if known is not None:
        return known
    reason = " ".join(str(error).split())[:200]
    return DistributedError(
        f"{doing}: another process of this run does not answer ({reason}); see its own error above, then "
        "start the run again: it resumes from the newest checkpoint"
    )
