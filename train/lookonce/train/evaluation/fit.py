"""The loop that trains a classifier, for the linear probe and for fine-tuning; resumes exactly at any step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lookonce.shared.errors import Interrupted, MachineError, NumericalError, SourceError, StorageError
from lookonce.shared.progress_bar import progress_bar
from lookonce.train.evaluation.evaluation_folder import EvaluationFolder
from lookonce.train.evaluation.fit_schedule import FitSchedule
from lookonce.train.loop.interrupts import DeferredInterrupts
from lookonce.train.records.metrics import MetricsLog

RATE_SCALE = "lr_scale"
"""Key of a parameter group: factor of its learning rate (timm's name for layer decay)."""

B = TypeVar("B")


@dataclass
class Tally:
    """Sums over the images of an epoch so far."""

    loss: float = 0.0
    """Sum over images."""
    right: float = 0.0
    """Images whose class has the highest score."""
    seen: int = 0
    """Images."""

    def add(self, loss: float, right: float, seen: int) -> None:
        """Count a step of ``seen`` images with a mean loss."""
        self.loss, self.right, self.seen = self.loss + loss * seen, self.right + right, self.seen + seen


class Learner(Protocol[B]):
    """The model under training. Everything random in it is a function of seed, step and image."""

    @property
    def module(self) -> nn.Module:
        """The trained module."""
        ...

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Over the module's parameters."""
        ...

    def batches(self, schedule: FitSchedule, first: int) -> Generator[B]:
        """The batches of all steps from ``first`` on."""
        ...

    def forward(self, step: int, batch: B) -> tuple[Tensor, float, int]:
        """Mean loss of a step with its graph, number of images that were right, number of images."""
        ...

    def after_epoch(self, epoch: int) -> Mapping[str, float]:
        """More metrics of an epoch."""
        ...


def fit(
    learner: Learner[Any], schedule: FitSchedule, folder: EvaluationFolder | None, *, checkpoint_seconds: float = 60.0
) -> dict[str, Any]:
    """Train from the folder's newest checkpoint, or from the start, to the end.

    Args:
        learner: the model under training.
        schedule: its steps.
        folder: folder of checkpoints and metrics, already locked; None writes nothing.
        checkpoint_seconds: shortest time between checkpoints.

    Returns:
        The last epoch's line of metrics.

    Raises:
        Interrupted: Ctrl-C or SIGTERM, after a checkpoint.
        NumericalError: the loss or a parameter is not finite; the last good checkpoint is kept.
        CheckpointError: the newest checkpoint cannot be read or belongs to another evaluation.
        SourceError: an image cannot be read; raised after a checkpoint.
        StorageError: a checkpoint or the metrics could not be written.
    """
    return _Fit(learner, schedule, folder, checkpoint_seconds).run()


class _Fit:
    def __init__(
        self, learner: Learner[Any], schedule: FitSchedule, folder: EvaluationFolder | None, checkpoint_seconds: float
    ) -> None:
        self.learner, self.schedule, self.folder = learner, schedule, folder
        self.checkpoint_seconds = checkpoint_seconds
        self.step = self.saved_step = 0
        self.saved_at = time.monotonic()
        self.tally = Tally()
        self.line: dict[str, Any] = {}
        checkpoint = folder.newest() if folder else None
        if checkpoint is not None:
            learner.module.load_state_dict(checkpoint.state["module"])
            learner.optimizer.load_state_dict(checkpoint.state["optimizer"])
            self.tally, self.line = Tally(**checkpoint.state["tally"]), dict(checkpoint.state["line"])
            self.step = self.saved_step = checkpoint.step

    def run(self) -> dict[str, Any]:
        pending = self._at_epoch_end and self.tally.seen > 0  # the run stopped in after_epoch
        first = self.step - 1 if pending else self.step
        log = MetricsLog(self.folder.root, first_step=first) if self.folder else None
        batches = self.learner.batches(self.schedule, self.step)
        bar = progress_bar(total=self.schedule.total_steps, initial=self.step, unit="step")
        self.learner.module.train()
        with (
            DeferredInterrupts() as interrupts,
            contextlib.closing(log) if log else contextlib.nullcontext(),
            contextlib.closing(batches),
            contextlib.closing(bar),
        ):
            if pending:
                self._end_epoch(log)
            while self.step < self.schedule.total_steps:
                try:
                    interrupts.raise_pending()
                    batch = next(batches)
                except (Interrupted, SourceError, StorageError, MachineError):
                    self._save()
                    raise
                self._one_step(batch, bar)
                if self._at_epoch_end:
                    self._end_epoch(log)
                if time.monotonic() - self.saved_at >= self.checkpoint_seconds:
                    self._save()
            self._save()
        return self.line

    def _one_step(self, batch: Any, bar: tqdm[Any]) -> None:
        rate = self.schedule.steps.learning_rate(self.step)
        optimizer = self.learner.optimizer
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get(RATE_SCALE, 1.0)
        loss, right, seen = self.learner.forward(self.step, batch)
        value = float(loss.detach())
        if value - value != 0:
            raise self._diverged(f"the loss of step {self.step} is {value}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        self.tally.add(value, right, seen)
        self.step += 1
        bar.set_postfix_str(f"epoch {self.schedule.epoch(self.step - 1) + 1}, loss {value:.4f}", refresh=False)
        bar.update()

    @property
    def _at_epoch_end(self) -> bool:
        return self.step > 0 and self.step % self.schedule.steps_per_epoch == 0

    def _end_epoch(self, log: MetricsLog | None) -> None:
        epoch = self.schedule.epoch(self.step - 1)
        self._require_finite_parameters()
        try:
            found = self.learner.after_epoch(epoch)
        except (SourceError, StorageError, MachineError):
            self._save()
            raise
        self.line = {
            "step": self.step - 1,
            "epoch": epoch + 1,
            "loss": self.tally.loss / self.tally.seen,
            "train_accuracy": self.tally.right / self.tally.seen,
            "lr": self.schedule.steps.learning_rate(self.step - 1),
            **found,
        }
        self.tally, self.saved_step = (
            Tally(),
            -1,
        )  # a checkpoint of this step, if any, is from before the end of the epoch
        if log is not None:
            log.write(self.line)

    def _save(self) -> None:
        if self.folder is None or self.step == self.saved_step:
            return
        self._require_finite_parameters()
        state = {
            "module": self.learner.module.state_dict(),
            "optimizer": self.learner.optimizer.state_dict(),
            "tally": asdict(self.tally),
            "line": self.line,
        }
        self.folder.save(self.step, state)
        self.saved_step, self.saved_at = self.step, time.monotonic()

    def _require_finite_parameters(self) -> None:
        for name, value in self.learner.module.named_parameters():
            if not bool(torch.isfinite(value).all()):
                raise self._diverged(f"parameter {name} is not finite after step {self.step - 1}")

    def _diverged(self, what: str) -> NumericalError:
        where = self.folder.root if self.folder else Path("evaluation")
        return NumericalError(
            f"{where}: {what}; training stopped, the last good checkpoint was kept. Try a smaller --base-lr or more "
            "--warmup-epochs"
        )
