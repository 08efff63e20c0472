"""Several students from one pass over the caches: runs in lock-step, each identical to the same run alone."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lookonce.catalogue.pins import reading
from lookonce.shared.errors import CacheError, Interrupted, NumericalError, SourceError, StorageError, UsageError
from lookonce.shared.progress_bar import progress_bar
from lookonce.train.config import TrainingConfig
from lookonce.train.data.caches.joined_caches import open_caches
from lookonce.train.distributed.world import world_size
from lookonce.train.loop.interrupts import DeferredInterrupts
from lookonce.train.loop.trainer import OpenRun, Trainer
from lookonce.train.records.wandb_run import require_wandb
from lookonce.train.run import (
    conclude_run,
    exclusive_run,
    open_log,
    prepare_run,
    require_run_folder,
)
from lookonce.train.run_notes import notes, steps_phrase
from lookonce.train.setup import set_up
from lookonce.train.summary import SweepSummary
from lookonce.train.sweep.sweep_file import read_sweep


@dataclass
class _Member:
    """A run of the sweep."""

    name: str
    trainer: Trainer
    open: OpenRun
    resumed: int


def train_sweep(
    config: TrainingConfig, file: Path, *, show_progress: bool = True, command: str | None = None
) -> SweepSummary:
    """Train the runs of a sweep file on one device; each resumes from its own newest checkpoint.

    The runs see the same samples at the same step, so each shard is checked once and read once for all. Runs that are
    behind catch up first. A run that diverges ends; the others continue.

    Args:
        config: the common settings; its ``out`` contains the folders of the runs.
        file: see ``read_sweep``.
        show_progress: whether a progress bar is drawn.
        command: recorded in each ``config.json``; None for the command line of this process.

    Raises:
        UsageError: the file is not a sweep, or there are several processes.
        Interrupted, CacheError, SourceError, StorageError: as for ``train_student``, after a checkpoint of every run.
        LookonceError: a run cannot be set up; raised before any run starts.
    """
    if world_size() > 1:
        raise UsageError("--sweep trains its students on one device; start it without torchrun, or each run by itself")
    started, configs = time.perf_counter(), read_sweep(file, config)
    for run in configs.values():
        require_run_folder(run)
        if run.wandb is not None:
            require_wandb()
    caches = open_caches(config)
    setups = {name: set_up(run, caches=caches) for name, run in configs.items()}
    with contextlib.closing(caches), contextlib.ExitStack() as stack:
        for run in configs.values():
            stack.enter_context(exclusive_run(run.out))
        stack.enter_context(reading(config.folders, f"sweep {config.out}"))
        trainers = {name: prepare_run(run, setups[name]) for name, run in configs.items()}
        if show_progress:
            _print_start(trainers)
        interrupts = stack.enter_context(DeferredInterrupts())
        members = [_opened(name, trainer, stack, command) for name, trainer in trainers.items()]
        errors = dict(_train(members, interrupts, show_progress=show_progress))
        seconds = time.perf_counter() - started
        summaries = {
            one.name: conclude_run(one.trainer, one.resumed, seconds, diverged=one.name in errors) for one in members
        }
        return SweepSummary(summaries, errors)


def _print_start(trainers: Mapping[str, Trainer]) -> None:
    """Print the runs and their notes; a note about several runs is printed once."""
    for name, trainer in trainers.items():
        print(f"{name}: {trainer.config.student}, {steps_phrase(trainer)}", file=sys.stderr, flush=True)
    for note in dict.fromkeys(note for trainer in trainers.values() for note in notes(trainer)):
        print(f"note: {note}", file=sys.stderr, flush=True)


def _opened(name: str, trainer: Trainer, stack: contextlib.ExitStack, command: str | None) -> _Member:
    run = trainer.config.out
    log = open_log(trainer, command) if trainer.unfinished else None
    if log is not None:
        stack.callback(log.close)
    opened = stack.enter_context(trainer.opened(log, run / "checkpoints", show_progress=False))
    return _Member(name, trainer, opened, trainer.step)


def _train(members: list[_Member], interrupts: DeferredInterrupts, *, show_progress: bool) -> Iterator[tuple[str, str]]:
    """Step all runs to their ends; yields the runs that diverged, with the reason."""
    active = list(members)
    steps = sum(one.trainer.schedule.last_step for one in members)
    done = sum(one.trainer.step for one in members)
    with contextlib.closing(progress_bar(total=steps, initial=done, unit="step", show=show_progress)) as bar:
        while True:
            for one in [one for one in active if not one.trainer.unfinished]:
                active.remove(one)
                yield from _divergence(
                    one, partial(_or_finish_others, one, active, partial(one.trainer.finish, one.open))
                )
            if not active:
                return
            behind = min(one.trainer.step for one in active)
            for one in [one for one in active if one.trainer.step == behind]:
                step = partial(one.trainer.advance, one.open, interrupts)
                failed = list(_divergence(one, partial(_or_finish_others, one, active, step)))
                if failed:
                    active.remove(one)
                    yield from failed
                bar.update()


def _or_finish_others(one: _Member, active: list[_Member], work: Callable[[], None]) -> None:
    """Do work of one run; if an error ends the sweep, let all other runs write their checkpoints first."""
    try:
        work()
    except (Interrupted, CacheError, SourceError, StorageError):
        for other in active:
            if other is not one:
                with contextlib.suppress(NumericalError, StorageError):
                    other.trainer.finish(other.open)
        raise


def _divergence(one: _Member, work: Callable[[], None]) -> Iterator[tuple[str, str]]:
    try:
        work()
    except NumericalError as error:
        print(f"note: {error}", file=sys.stderr, flush=True)
        yield one.name, str(error)
