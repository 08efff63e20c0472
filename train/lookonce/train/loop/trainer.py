"""The training loop: exact, resumable, and the same on any number of processes."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lookonce.shared.errors import (
    CacheError,
    DistributedError,
    EndedElsewhereError,
    Interrupted,
    LookonceError,
    NumericalError,
    SourceError,
    StorageError,
)
from lookonce.shared.progress_bar import progress_bar
from lookonce.train.checkpoints.checkpoint_file import Checkpoint, save_checkpoint
from lookonce.train.config import TrainingConfig
from lookonce.train.data.batch import Batch
from lookonce.train.data.device_copies import DeviceCopies
from lookonce.train.data.input_watch import InputWatch
from lookonce.train.data.prefetch import prefetched_batches
from lookonce.train.distributed.parallel import parallel_forward
from lookonce.train.distributed.world import SINGLE_PROCESS, World, gradient_exchange
from lookonce.train.loop.diagnosis import FirstBadLoss, diverged_at, find_bad_value_in_step, require_finite_parameters
from lookonce.train.loop.interrupts import DeferredInterrupts
from lookonce.train.loop.optimization import set_learning_rate
from lookonce.train.loop.schedule import RunSchedule
from lookonce.train.loop.training_state import TrainingState
from lookonce.train.records.metrics import MetricsLog
from lookonce.train.records.mixtures import mixture_images
from lookonce.train.setup import TrainingSetup

PICTURE_SECONDS = 30.0
"""Seconds between two pictures of W in TensorBoard, at least; drawing one takes 0.2 s."""
SHOW_SECONDS = 0.9
"""Seconds between two losses on the progress bar, between logged steps."""


@dataclass
class _Clock:
    """Seconds and samples since the last logged step."""

    started: float
    waited: float = 0.0
    samples: int = 0


@dataclass(frozen=True)
class _Losses:
    """A step's losses, summed over this process's parts, each times its share of the global batch."""

    loss: Tensor
    level_losses: Tensor


@dataclass
class OpenRun:
    """Resources that are open while a run steps."""

    batches: Generator[Batch]
    bar: tqdm[None]
    log: MetricsLog | None
    checkpoints: Path
    clock: _Clock
    watch: InputWatch
    pictured: float
    """Time of the last picture of W, seconds of ``time.monotonic``."""
    shown: float = 0.0
    """Time of the bar's last loss between logged steps, seconds of ``time.perf_counter``."""


class Trainer:
    """Runs the steps of one run.

    Args:
        config: the run.
        setup: input and model.
        config_document: content of ``config.json``, stored in checkpoints.
        world: processes of the run.
    """

    def __init__(
        self,
        config: TrainingConfig,
        setup: TrainingSetup,
        config_document: Mapping[str, Any],
        world: World = SINGLE_PROCESS,
    ) -> None:
        self.config, self.setup, self.world = config, setup, world
        self.document = config_document
        self._forward = parallel_forward(setup.model, config, setup.device, world)
        self.state = TrainingState(config, setup, world)
        self.schedule = RunSchedule.of(config, setup.input.order)
        self.step = 0
        """Steps done, and number of the next step."""
        self._saved_step = 0
        self._bad_loss = FirstBadLoss()
        self._copies = DeviceCopies(setup.device)
        self._pending_error: LookonceError | None = None
        """Error of this process that the others do not know yet."""

    @property
    def unfinished(self) -> bool:
        """Whether this call has steps left."""
        return self.step < self.schedule.last_step

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Resume from a checkpoint of this run; every process has to call it.

        Args:
            checkpoint: the loaded checkpoint.
            path: its file or folder.

        Raises:
            CheckpointError: it contains other parameters than the run's.
        """
        self.state.restore(checkpoint, path)
        self.step = self._saved_step = checkpoint.step

    def train(
        self,
        log: MetricsLog | None,
        checkpoints: Path,
        *,
        show_progress: bool,
        stop_asked: Callable[[], bool] = lambda: False,
    ) -> None:
        """Run the remaining steps; before an interrupt or a damaged cache ends the run, a checkpoint is saved.

        Args:
            log: takes logged steps; None in all processes but the leader.
            checkpoints: folder for checkpoints.
            show_progress: whether to draw a progress bar.
            stop_asked: called before each step; True stops the run, as a signal does.

        Raises:
            Interrupted: Ctrl-C or SIGTERM.
            NumericalError: the loss is not finite; the last good checkpoint is kept.
            IntegrityError: a cache is damaged; the message names the object.
            DistributedError: another process of the run is gone; the steps before are saved.
            EndedElsewhereError: another process reports why the run ends.
            StorageError: a checkpoint or the metrics could not be written.
        """
        with (
            DeferredInterrupts(stop_asked) as interrupts,
            self.opened(log, checkpoints, show_progress=show_progress) as run,
        ):
            try:
                while self.unfinished:
                    self.advance(run, interrupts)
                self.finish(run)
            except EndedElsewhereError:
                raise
            except DistributedError:
                self._save_alone(run)
                raise

    @contextlib.contextmanager
    def opened(self, log: MetricsLog | None, checkpoints: Path, *, show_progress: bool) -> Generator[OpenRun]:
        """Open the batches and the progress bar for :meth:`advance` and :meth:`finish`; arguments as :meth:`train`."""
        self.state.module.train()
        parts, mine = self.world.parts(self.config.accumulate)
        watch = InputWatch(self.config.workers, replays=not self.setup.input.caches.first.manifest.stores_pixels)
        batches = prefetched_batches(
            self.setup.input.batches,
            self.setup.input.order,
            first=self.step,
            last=self.schedule.last_step,
            threads=self.config.workers,
            parts=parts,
            mine=mine,
            watch=watch,
        )
        bar = progress_bar(total=self.schedule.last_step, initial=self.step, unit="step", show=show_progress)
        with contextlib.closing(batches), contextlib.closing(bar):
            yield OpenRun(batches, bar, log, checkpoints, _Clock(time.perf_counter()), watch, time.monotonic())

    def advance(self, run: OpenRun, interrupts: DeferredInterrupts) -> None:
        """One step: gradients of this process's parts of the global batch, one update; saves and logs if it is due.

        Raises:
            LookonceError: as :meth:`train`.
        """
        batches = self._input(run, interrupts)
        rate = self.schedule.learning_rate(self.step)
        set_learning_rate(self.state.optimizer, rate)
        self.state.optimizer.zero_grad(set_to_none=True)
        losses = self._gradients(batches)
        last = self.step + 1 == self.schedule.total_steps
        logged = self.step % self.config.log_steps == 0 or last
        saved = self.step > 0 and self.step % self.schedule.checkpoint_steps == 0
        if logged or saved:
            losses = _Losses(self.world.sum(losses.loss), self.world.sum(losses.level_losses))
        self._bad_loss.record(self.step, losses.loss, losses.level_losses)
        if logged or saved or (self.world.size == 1 and losses.loss.device.type == "cpu"):  # does not wait for a GPU
            self.world.raise_on_all(lambda: self._require_finite_loss(losses))
        if saved:  # before the update: these parameters have just given a finite loss
            self._save(run)
        self.state.update()
        if logged:
            self._log(run, losses, rate)
        else:
            self._show(run, losses)
        self.step += 1
        run.bar.update()

    def _show(self, run: OpenRun, losses: _Losses) -> None:
        """Show loss and rate between logged steps, about once per second; this waits for a GPU."""
        now = time.perf_counter()
        if run.bar.disable or now - run.shown < SHOW_SECONDS:
            return
        run.shown = now
        loss = float(losses.loss) * self.world.size  # this process's part of the batch, as a mean over it
        pace = run.clock.samples * self.world.size / max(now - run.clock.started, 1e-9)
        run.bar.set_postfix_str(f"loss {loss:.4f}, {pace:.0f} images/s", refresh=False)

    def finish(self, run: OpenRun) -> None:
        """Save the last checkpoint."""
        self.world.raise_on_all(lambda: require_finite_parameters(self.config.out, self.step, self.state.module))
        self._save(run)
        error = self.world.agree(self._pending_error)
        if error is not None:
            raise error

    def _input(self, run: OpenRun, interrupts: DeferredInterrupts) -> list[Batch]:
        """This process's batches of the step, on the device; returns when every process has its own."""
        waiting, batches = time.perf_counter(), []
        try:
            interrupts.raise_pending()
            batches = [next(run.batches) for _ in range(self.config.accumulate)]
        except (Interrupted, CacheError, SourceError, StorageError) as stopped:
            self._pending_error = self._pending_error or stopped
        run.clock.waited += time.perf_counter() - waiting
        run.clock.samples += sum(len(batch.visible_ids) for batch in batches)
        error, self._pending_error = self.world.agree(self._pending_error), None
        if error is not None:
            with contextlib.suppress(NumericalError, StorageError, EndedElsewhereError):
                self.finish(run)
            raise error
        return [self._copies.take(batch) for batch in batches]

    def _gradients(self, batches: list[Batch]) -> _Losses:
        """Sum the gradients over parts; exchange them with other processes once, after the last part."""
        losses = []
        for number, batch in enumerate(batches):
            is_last = number + 1 == len(batches)
            synchronised = contextlib.nullcontext() if is_last else self._forward.local()
            with synchronised, gradient_exchange(f"step {self.step}"):
                output = self._forward(batch)
                # gradients are averaged over processes: the factor turns the average into a sum
                (output.loss * (batch.share * self.world.size)).backward()  # type: ignore[no-untyped-call]
            losses.append((output.loss.detach() * batch.share, output.level_losses.detach() * batch.share))
        loss, level_losses = (torch.stack(parts).sum(dim=0) for parts in zip(*losses, strict=True))
        return _Losses(loss, level_losses)

    def _require_finite_loss(self, losses: _Losses) -> None:
        """Raise for the first bad loss that this process knows; its own part of a bad step may be finite."""
        step = self._bad_loss.step
        if step is None and bool(torch.isfinite(losses.loss)):
            return
        bad = None
        # the parameters are still those of that loss, and this process can compute without the others
        if step is not None and step == self.step and self.config.parallel == "ddp":
            bad = find_bad_value_in_step(self.setup, step, *self.world.parts(self.config.accumulate))
        found = self.step if step is None else step
        raise diverged_at(self.config.out, found, self._bad_loss.bad_levels(self.setup.level_names), bad)

    def _save(self, run: OpenRun) -> None:
        if self.step == self._saved_step:
            return
        checkpoint = Checkpoint(step=self.step, config=self.document, data=self.setup.input.document(), state={})
        mixtures = self.state.mixtures()
        if self.config.checkpoint == "sharded":
            self.state.save_sharded(run.checkpoints, checkpoint)
        state = self.state.full_state() if self.config.checkpoint == "whole" else None
        self._saved_step = self.step
        try:
            if state is not None:
                save_checkpoint(run.checkpoints, replace(checkpoint, state=state))
            ended = self.step >= self.schedule.last_step
            if run.log is not None and (ended or time.monotonic() - run.pictured >= PICTURE_SECONDS):
                run.pictured = time.monotonic()
                run.log.write_images(self.step, mixture_images(self.setup, mixtures))
        except StorageError as error:
            self._pending_error = error

    def _save_alone(self, run: OpenRun) -> None:
        """Save the complete steps before the run ends because another process is gone.

        Not on a GPU, where tensors may wait for an exchange that never ends, nor if the parameters are sharded.
        """
        if self.setup.device.type != "cpu" or self.config.parallel == "fsdp" or self.config.checkpoint == "sharded":
            return
        with contextlib.suppress(NumericalError, StorageError):
            require_finite_parameters(self.config.out, self.step, self.state.module)
            self._save(run)

    def _log(self, run: OpenRun, losses: _Losses, rate: float) -> None:
        elapsed = max(time.perf_counter() - run.clock.started, 1e-9)
        pace = run.clock.samples * self.world.size / elapsed
        wait = run.clock.waited / elapsed
        limit = run.watch.judge(run.clock.waited, elapsed)
        if limit is not None and not run.bar.disable:
            run.bar.write(f"note: {limit}", file=sys.stderr)
        run.clock = _Clock(time.perf_counter())
        if run.log is None:
            return
        metrics = {
            "step": self.step,
            "epoch": round(self.step * self.config.batch_size / self.setup.input.order.samples_per_epoch, 6),
            "loss": float(losses.loss),
            "level_loss": dict(zip(self.setup.level_names, losses.level_losses.tolist(), strict=True)),
            "lr": rate,
            "images_per_second": round(pace, 2),
            "input_wait_share": round(wait, 4),
            **_gpu_memory(self.setup.device),
        }
        try:
            run.log.write(metrics)
        except StorageError as error:
            self._pending_error = error
        run.bar.set_postfix_str(
            f"loss {float(losses.loss):.4f}, {pace:.0f} images/s, input wait {wait:.0%}", refresh=False
        )


def _gpu_memory(device: torch.device) -> dict[str, float]:
    """Peak memory of tensors so far, GiB; empty on a CPU."""
    if device.type != "cuda":
        return {}
    return {"gpu_memory_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 3)}
