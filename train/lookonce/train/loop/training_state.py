"""The state of a run: parameters, moments, moving average; saved to and restored from checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lookonce.shared.errors import CheckpointError
from lookonce.train.checkpoints.checkpoint_file import Checkpoint
from lookonce.train.config import TrainingConfig
from lookonce.train.distributed.world import World
from lookonce.train.loop.optimization import adamw, moving_average
from lookonce.train.model.sharded_tensors import full_state, full_tensor, restore_full_state
from lookonce.train.setup import TrainingSetup, trainable


class TrainingState:
    """State of one run in one of its processes; with FSDP, create it after the model is sharded.

    Attributes:
        module: student and alignments, which are optimised.
        optimizer: over the parameters of ``module``.
        average: moving average of the student, or None.

    Args:
        config: the run.
        setup: contains the model.
        world: processes of the run.
    """

    def __init__(self, config: TrainingConfig, setup: TrainingSetup, world: World) -> None:
        self._config, self._model, self._world = config, setup.model, world
        self.module = trainable(setup.model)
        self.optimizer = adamw(self.module, weight_decay=config.weight_decay)
        self.average = None if config.ema is None else moving_average(setup.model.student, config.ema)

    def update(self) -> None:
        """One step of the optimizer, and of the moving average."""
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self._model.student)

    def mixtures(self) -> list[Tensor | None]:
        """W of each teacher's alignment as a full tensor, or None without W; every process has to call it."""
        weights = [alignment.weight for alignment in self._model.alignments]
        return [None if weight is None else full_tensor(weight.detach()) for weight in weights]

    def full_state(self) -> dict[str, Any] | None:
        """State dicts for a checkpoint file; every process has to call it, all but the leader get None."""
        if not self._world.is_leader and self._config.parallel != "fsdp":
            return None
        state = full_state(self.module, self.optimizer, keep=self._world.is_leader)
        if self.average is not None:
            state["average"] = self.average.state_dict()
        return state if self._world.is_leader else None

    def save_sharded(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write a checkpoint folder; every process has to call it.

        Raises:
            StorageError: the operating system refused.
            EndedElsewhereError: it refused another process.
        """
        from lookonce.train.checkpoints.sharded_checkpoint import save_sharded  # slow to import

        save_sharded(folder, checkpoint, self.module, self.optimizer, self._world)

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Restore the state from a checkpoint of this run; every process has to call it.

        Args:
            checkpoint: the loaded checkpoint.
            path: its file or folder.

        Raises:
            CheckpointError: it contains other parameters than the run's.
        """
        if path.is_dir():
            from lookonce.train.checkpoints.sharded_checkpoint import load_sharded

            load_sharded(path, self.module, self.optimizer, self._world)
        else:
            self._world.raise_on_all(lambda: self._restore_full(checkpoint.state, path))

    def _restore_full(self, state: Mapping[str, Any], path: Path) -> None:
        try:
            restore_full_state(state, self.module, self.optimizer)
            if self.average is not None:
                self.average.load_state_dict(state["average"])
        except (KeyError, RuntimeError, ValueError) as error:  # torch lists all parameters
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{path}: does not contain the parameters of this run ({reason}): it is damaged, or was written with "
                "another version of timm; give another one with --resume FILE"
            ) from error
