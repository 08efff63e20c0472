"""The training loop: exact, resumable, and honest about where its time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lookonce.shared.errors import Interrupted, NumericalError
from lookonce.shared.progress import progress_bar
from lookonce.shared.randomness import random_words
from lookonce.train.alignment import AlignmentOutput
from lookonce.train.checkpoints import Checkpoint, save_checkpoint
from lookonce.train.config import TrainingConfig
from lookonce.train.metrics import MetricsLog
from lookonce.train.optimization import adamw, learning_rate, scaled_learning_rate, set_learning_rate
from lookonce.train.prefetch import prefetched_batches
from lookonce.train.setup import TrainingSetup, trainable


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
        self.total_steps = setup.order.total_steps
        per_epoch = setup.order.samples_per_epoch / config.batch_size
        wanted = min(config.warmup_epochs, config.epochs / 10) if config.warmup_epochs else 0.0
        self._warmup_steps = min(round(wanted * per_epoch), self.total_steps - 1)
        self._peak = scaled_learning_rate(config.base_lr, config.batch_size)
        self._checkpoint_steps = config.checkpoint_steps or max(50, round(per_epoch))
        self._forward: Callable[..., AlignmentOutput] = setup.model
        if config.compile:
            self._forward = torch.compile(setup.model)

    @property
    def last_step(self) -> int:
        """Steps this call will have done: the whole schedule, or up to ``--max-steps``."""
        return min(self.total_steps, self.config.max_steps or self.total_steps)

    def state(self) -> Checkpoint:
        """The run as it stands between two steps."""
        manifest = self.setup.reader.manifest
        return Checkpoint(
            step=self.step,
            config=self._document,
            fingerprint=manifest.recipe.fingerprint,
            encoding=manifest.encoding.digest,
            state={"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()},
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this run."""
        self.module.load_state_dict(checkpoint.state["module"])
        self.optimizer.load_state_dict(checkpoint.state["optimizer"])
        self.step = checkpoint.step

    def train(self, log: MetricsLog, checkpoints: Path, *, show_progress: bool) -> None:
        """Run the remaining steps; on Ctrl-C or SIGTERM a checkpoint is written before the interrupt goes on.

        Raises:
            NumericalError: the loss is not finite; the last good checkpoint is kept.
            IntegrityError: the cache is damaged; names the object.
        """
        self.module.train()
        batches = prefetched_batches(
            self.setup.targets, self.setup.order, first=self.step, last=self.last_step, threads=self.config.workers
        )
        bar = progress_bar(total=self.last_step, initial=self.step, unit="step", show=show_progress)
        clock = _Clock(time.perf_counter())
        output: AlignmentOutput | None = None
        try:
            while self.step < self.last_step:
                waiting = time.perf_counter()
                batch = next(batches)
                clock.waited += time.perf_counter() - waiting
                clock.samples += len(batch.visible_ids)
                output, rate = self._one_step(batch.to(self.setup.device))
                step, self.step = self.step, self.step + 1
                last = self.step == self.last_step
                if step % self.config.log_steps == 0 or last:
                    clock = self._log(log, bar, step, output, rate, clock)
                if self.step % self._checkpoint_steps == 0 or last:
                    self._require_finite(output, step)
                    save_checkpoint(checkpoints, self.state())
                bar.update()
        except (KeyboardInterrupt, Interrupted):
            self._save_on_interrupt(output, checkpoints)
            raise
        finally:
            bar.close()
            batches.close()

    def _one_step(self, batch: Any) -> tuple[AlignmentOutput, float]:
        # stochastic depth draws from the global generator: seeded by the step, so that a resumed run repeats it
        torch.manual_seed(int(random_words(1, "step", 1, self.config.seed, self.step)[0] >> 1))
        rate = learning_rate(
            self.step, total_steps=self.total_steps, warmup_steps=self._warmup_steps,
            base_lr_scaled=self._peak, min_lr=min(self.config.min_lr, self._peak),
        )  # fmt: skip
        set_learning_rate(self.optimizer, rate)
        output = self._forward(batch)
        self.optimizer.zero_grad(set_to_none=True)
        output.loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return output, rate

    def _log(
        self, log: MetricsLog, bar: tqdm[None], step: int, output: AlignmentOutput, rate: float, clock: _Clock
    ) -> _Clock:
        self._require_finite(output, step)
        now = time.perf_counter()
        elapsed = max(now - clock.started, 1e-9)
        levels = self.setup.model.alignment.teacher_blocks
        loss = float(output.loss.detach())
        metrics = {
            "step": step,
            "epoch": round(step * self.config.batch_size / self.setup.order.samples_per_epoch, 6),
            "loss": loss,
            "level_loss": dict(zip(map(str, levels), output.level_losses.detach().tolist(), strict=True)),
            "lr": rate,
            "images_per_second": round(clock.samples / elapsed, 2),
            "input_wait_share": round(clock.waited / elapsed, 4),
        }
        log.write(metrics)
        bar.set_postfix_str(
            f"loss {loss:.4f}, {metrics['images_per_second']:.0f} images/s, input wait {clock.waited / elapsed:.0%}",
            refresh=False,
        )
        return _Clock(time.perf_counter())

    def _require_finite(self, output: AlignmentOutput, step: int) -> None:
        if not bool(torch.isfinite(output.loss.detach())):
            levels = self.setup.model.alignment.teacher_blocks
            bad = [block for block, loss in zip(levels, output.level_losses.tolist(), strict=True) if not loss < 1e30]
            where = f" (teacher blocks {', '.join(map(str, bad))})" if bad else ""
            raise NumericalError(
                f"{self.config.out}: the loss of step {step} is {float(output.loss)}{where}; training stopped and the "
                "last good checkpoint was kept. Try a smaller --base-lr, more --warmup-epochs, or --precision fp32"
            )

    def _save_on_interrupt(self, output: AlignmentOutput | None, checkpoints: Path) -> None:
        if output is not None and bool(torch.isfinite(output.loss.detach())):
            save_checkpoint(checkpoints, self.state())
