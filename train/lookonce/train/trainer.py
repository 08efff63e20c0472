"""The training loop: exact, resumable, and honest about where its time goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lookonce.shared.errors import CacheError, Interrupted, NumericalError, SourceError
from lookonce.shared.progress import progress_bar
from lookonce.shared.randomness import random_words
from lookonce.train.alignment import AlignmentOutput
from lookonce.train.cached_targets import Batch
from lookonce.train.checkpoints import Checkpoint, save_checkpoint
from lookonce.train.config import TrainingConfig
from lookonce.train.interrupts import DeferredInterrupts
from lookonce.train.metrics import MetricsLog
from lookonce.train.optimization import adamw, learning_rate, scaled_learning_rate, set_learning_rate
from lookonce.train.prefetch import prefetched_batches
from lookonce.train.setup import TrainingSetup, trainable

STEP_STREAM_VERSION = 1
"""Part of the name of the stream that seeds each step's stochastic depth."""


@dataclass
class _Clock:
    """Where the time since the last logged step went, seconds."""

    started: float
    waited: float = 0.0
    samples: int = 0


class Trainer:
    """Runs the steps of one run.

    Args:
        config: the run.
        setup: cache, model and order.
        config_document: ``config.json``'s content, kept in checkpoints.
    """

    def __init__(self, config: TrainingConfig, setup: TrainingSetup, config_document: dict[str, Any]) -> None:
        self.config, self.setup = config, setup
        self._document = config_document
        self.module = trainable(setup.model)
        self.optimizer = adamw(self.module, weight_decay=config.weight_decay)
        self.step = 0
        """Steps done, which is also the number of the next one."""
        self.total_steps = setup.order.total_steps
        per_epoch = setup.order.samples_per_epoch / config.batch_size
        wanted = min(config.warmup_epochs, config.epochs / 10)
        self._warmup_steps = min(round(wanted * per_epoch), self.total_steps - 1)
        self._peak = scaled_learning_rate(config.base_lr, config.batch_size)
        self._checkpoint_steps = config.checkpoint_steps or max(50, round(per_epoch))
        self._saved_step = 0
        self._forward: Callable[[Batch], AlignmentOutput] = setup.model
        if config.compile:
            self._forward = torch.compile(setup.model)

    @property
    def last_step(self) -> int:
        """Steps this call will have done: the whole schedule, or up to ``--max-steps``."""
        return min(self.total_steps, self.config.max_steps or self.total_steps)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this run."""
        self.module.load_state_dict(checkpoint.state["module"])
        self.optimizer.load_state_dict(checkpoint.state["optimizer"])
        self.step = self._saved_step = checkpoint.step

    def train(self, log: MetricsLog, checkpoints: Path, *, show_progress: bool) -> None:
        """Run the remaining steps; a stop that was asked for, or a damaged cache, comes after a checkpoint.

        Raises:
            Interrupted: Ctrl-C or SIGTERM.
            NumericalError: the loss is not finite; the last good checkpoint is kept.
            IntegrityError: the cache is damaged; names the object.
            StorageError: a checkpoint or the metrics could not be written.
        """
        self.module.train()
        batches = prefetched_batches(
            self.setup.targets, self.setup.order, first=self.step, last=self.last_step, threads=self.config.workers
        )
        bar = progress_bar(total=self.last_step, initial=self.step, unit="step", show=show_progress)
        clock = _Clock(time.perf_counter())
        with DeferredInterrupts() as interrupts, contextlib.closing(batches), contextlib.closing(bar):
            while self.step < self.last_step:
                batch = self._next_batch(batches, interrupts, checkpoints, clock)
                loss, level_losses, rate = self._one_step(batch, checkpoints)
                if self.step % self.config.log_steps == 0 or self.step + 1 == self.total_steps:
                    clock = self._log(log, bar, loss, level_losses, rate, clock)
                self.step += 1
                bar.update()
        self._require_finite_parameters()
        self._save(checkpoints)

    def _next_batch(
        self, batches: Generator[Batch], interrupts: DeferredInterrupts, checkpoints: Path, clock: _Clock
    ) -> Batch:
        waiting = time.perf_counter()
        try:
            interrupts.raise_noted()
            batch = next(batches)
        except (Interrupted, CacheError, SourceError):
            with contextlib.suppress(NumericalError):
                self._require_finite_parameters()
                self._save(checkpoints)
            raise
        clock.waited += time.perf_counter() - waiting
        clock.samples += len(batch.visible_ids)
        return batch.to(self.setup.device)

    def _one_step(self, batch: Batch, checkpoints: Path) -> tuple[torch.Tensor, torch.Tensor, float]:
        # stochastic depth draws from the global generator: seeded by the step, so that a resumed run repeats it
        torch.manual_seed(int(random_words(1, "step", STEP_STREAM_VERSION, self.config.seed, self.step)[0] >> 1))
        rate = learning_rate(
            self.step, total_steps=self.total_steps, warmup_steps=self._warmup_steps,
            base_lr_scaled=self._peak, min_lr=min(self.config.min_lr, self._peak),
        )  # fmt: skip
        set_learning_rate(self.optimizer, rate)
        output = self._forward(batch)
        loss, level_losses = output.loss.detach(), output.level_losses.detach()
        if self.step and self.step % self._checkpoint_steps == 0:
            # before the update: what is saved has just been seen to give a finite loss
            self._require_finite(loss, level_losses)
            self._save(checkpoints)
        self.optimizer.zero_grad(set_to_none=True)
        output.loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss, level_losses, rate

    def _save(self, checkpoints: Path) -> None:
        if self.step == self._saved_step:
            return
        state = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        save_checkpoint(
            checkpoints,
            Checkpoint(step=self.step, config=self._document, data=self.setup.data_document(), state=state),
        )
        self._saved_step = self.step

    def _log(
        self, log: MetricsLog, bar: tqdm[None], loss: torch.Tensor, level_losses: torch.Tensor, rate: float,
        clock: _Clock,
    ) -> _Clock:  # fmt: skip
        self._require_finite(loss, level_losses)
        elapsed = max(time.perf_counter() - clock.started, 1e-9)
        levels = map(str, self.setup.model.alignment.teacher_blocks)
        metrics = {
            "step": self.step,
            "epoch": round(self.step * self.config.batch_size / self.setup.order.samples_per_epoch, 6),
            "loss": float(loss),
            "level_loss": dict(zip(levels, level_losses.tolist(), strict=True)),
            "lr": rate,
            "images_per_second": round(clock.samples / elapsed, 2),
            "input_wait_share": round(clock.waited / elapsed, 4),
        }
        log.write(metrics)
        bar.set_postfix_str(
            f"loss {float(loss):.4f}, {clock.samples / elapsed:.0f} images/s, input wait {clock.waited / elapsed:.0%}",
            refresh=False,
        )
        return _Clock(time.perf_counter())

    def _require_finite(self, loss: torch.Tensor, level_losses: torch.Tensor) -> None:
        if not bool(torch.isfinite(loss)):
            levels = zip(self.setup.model.alignment.teacher_blocks, level_losses.isfinite().tolist(), strict=True)
            bad = ", ".join(str(block) for block, finite in levels if not finite)
            where = f" (teacher blocks {bad})" if bad else ""
            raise self._diverged(f"the loss of step {self.step} is {float(loss)}{where}")

    def _require_finite_parameters(self) -> None:
        bad = [name for name, value in self.module.named_parameters() if not bool(torch.isfinite(value).all())]
        if bad:
            raise self._diverged(f"parameter {bad[0]} is not finite after step {self.step - 1}")

    def _diverged(self, what: str) -> NumericalError:
        return NumericalError(
            f"{self.config.out}: {what}; training stopped and the last good checkpoint was kept. "
            "Try a smaller --base-lr, more --warmup-epochs, or --precision fp32"
        )
