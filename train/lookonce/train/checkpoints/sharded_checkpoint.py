"""Sharded checkpoints: a folder to which every process writes its part, with torch.distributed.checkpoint.

The folder appears by rename, complete or not at all. Any number of processes, with DDP or FSDP, can resume from it.
torch reads such folders with pickle, which runs code: resume from your own folders only.
"""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from lookonce.shared.errors import CheckpointError, StorageError
from lookonce.shared.faults.os_errors import storage_error
from lookonce.shared.files.atomic import TEMPORARY_MARK, sync_directory
from lookonce.train.checkpoints.checkpoint_file import Checkpoint, delete_superseded, write_description
from lookonce.train.distributed.world import World


def save_sharded(
    folder: Path, checkpoint: Checkpoint, module: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> Path:
    """Write the folder ``step-000000123``; every process has to call it.

    Args:
        folder: the run's checkpoints.
        checkpoint: step, config and data; its state is not used.
        module: the module that is optimised.
        optimizer: over the module's parameters.
        world: processes of the run.

    Raises:
        StorageError: the operating system refused; older checkpoints are untouched.
        EndedElsewhereError: it refused another process.
    """
    path = folder / f"step-{checkpoint.step:09d}"
    temporary = path.with_name(path.name + TEMPORARY_MARK + "pieces")
    parameters, moments = get_state_dict(module, optimizer)
    world.raise_on_all(lambda: _prepare(temporary) if world.is_leader else None)
    world.raise_on_all(lambda: _write({"module": parameters, "optimizer": moments}, temporary, world))
    world.raise_on_all(lambda: _commit(temporary, path, replace(checkpoint, state={})) if world.is_leader else None)
    return path


def load_sharded(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> None:
    """Restore parameters and moments, saved by any number of processes; every process has to call it.

    Raises:
        CheckpointError: it cannot be read.
    """
    parameters, moments = get_state_dict(module, optimizer)
    state: dict[str, Any] = {"module": parameters, "optimizer": moments}

    def read() -> None:
        with _torch_errors_as(
            lambda reason: CheckpointError(
                f"{path}: cannot be read as a checkpoint ({reason}); give another one with --resume FILE, "
                "or move it elsewhere to resume from the one before it"
            )
        ):
            load(state, checkpoint_id=path, no_dist=world.size == 1)

    world.raise_on_all(read)
    set_state_dict(module, optimizer, model_state_dict=state["module"], optim_state_dict=state["optimizer"])


def _prepare(temporary: Path) -> None:
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    except OSError as error:
        raise storage_error(error, temporary, "writing") from error


def _write(state: dict[str, Any], temporary: Path, world: World) -> None:
    with _torch_errors_as(
        lambda reason: StorageError(
            f"{temporary}: writing failed: {reason} (check the path and the disk, then run the same command again)"
        )
    ):
        save(state, checkpoint_id=temporary, no_dist=world.size == 1)


def _commit(temporary: Path, path: Path, checkpoint: Checkpoint) -> None:
    write_description(temporary, checkpoint)
    try:
        if path.exists():  # of the same step, if an older checkpoint was resumed
            shutil.rmtree(path)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise storage_error(error, path, "writing") from error
    delete_superseded(path)


@contextlib.contextmanager
def _torch_errors_as(error: Callable[[str], StorageError | CheckpointError]) -> Generator[None, None, None]:
    """Suppress the warning about a single process; raise torch's errors, of any process, as an error of lookonce."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            yield
    except CheckpointException as failed:  # a BaseException in torch
        first, _ = next(iter(failed.failures.values()))
        raise error(" ".join(str(first).split())[:200]) from failed
    except (OSError, RuntimeError, ValueError, KeyError) as failed:
        raise error(" ".join(str(failed).split())[:200]) from failed
