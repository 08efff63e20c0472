"""A training run as one call: set up, resume, train, write the student."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from lookonce.catalogue.pins import reading
from lookonce.shared.errors import BusyError, UsageError
from lookonce.shared.files.lock import exclusive_folder
from lookonce.shared.files.own_folder import has_field, require_own_folder
from lookonce.train.checkpoints.checkpoint_file import Checkpoint, load_checkpoint
from lookonce.train.checkpoints.lengthening import lengthened_document, require_checkpoint_to_lengthen
from lookonce.train.checkpoints.resuming import check_continues, check_replaceable, find_checkpoint, resume_again
from lookonce.train.config import TrainingConfig
from lookonce.train.distributed.world import SINGLE_PROCESS, World, is_restart, joined_world
from lookonce.train.loop.trainer import Trainer
from lookonce.train.model.student import Student
from lookonce.train.model.student_file import save_student
from lookonce.train.records.metrics import MetricsLog, read_metrics
from lookonce.train.records.mixtures import draw_mixtures, mixture_images
from lookonce.train.records.pictures import draw_loss
from lookonce.train.records.run_record import record_start
from lookonce.train.records.wandb_run import WandbRun, require_wandb
from lookonce.train.run_notes import lasting_notes, loss_notes, print_start
from lookonce.train.setup import TrainingSetup, set_up
from lookonce.train.summary import TrainingSummary


def train_student(
    config: TrainingConfig,
    *,
    show_progress: bool = True,
    stop_asked: Callable[[], bool] = lambda: False,
    command: str | None = None,
) -> TrainingSummary:
    """Train a student from caches; the teacher is never run and its files are not needed.

    Under ``torchrun`` every process calls it alike, and one of them writes the run's files. A process that ``torchrun``
    has restarted resumes from the newest checkpoint of the run, whatever ``resume`` is.

    Args:
        config: the run.
        show_progress: whether the leader draws a progress bar.
        stop_asked: called before each step; True stops the run in all processes, as Ctrl-C does.
        command: recorded in ``config.json``; None for ``sys.argv``.

    Raises:
        LookonceError: see ``setup``, ``checkpoints`` and ``trainer``.
    """
    started = time.perf_counter()
    run = config.out
    if is_restart():
        config = replace(config, resume=resume_again(config.resume, run / "checkpoints"))
    with joined_world(cuda=config.device != "cpu" and torch.cuda.is_available()) as world:
        # before the folder is made: a refused run writes nothing
        setup = world.raise_on_all(lambda: _checked_setup(config, world))
        show_progress = show_progress and world.is_leader
        with contextlib.closing(setup.input.caches), contextlib.ExitStack() as stack:
            world.raise_on_all(lambda: stack.enter_context(exclusive_run(run)) if world.is_leader else None)
            if world.is_leader:
                stack.enter_context(reading(config.folders, f"training run {run}"))
            trainer = prepare_run(config, setup, world)
            resumed = trainer.step
            if show_progress:
                print_start(trainer)
            if trainer.unfinished:
                logs = open_log(trainer, command)
                with contextlib.closing(logs) if logs else contextlib.nullcontext():
                    trainer.train(logs, run / "checkpoints", show_progress=show_progress, stop_asked=stop_asked)
            return conclude_run(trainer, resumed, time.perf_counter() - started)


def _checked_setup(config: TrainingConfig, world: World) -> TrainingSetup:
    require_run_folder(config)
    if config.wandb is not None:
        require_wandb()
    return set_up(config, world=world)


def exclusive_run(run: Path) -> contextlib.AbstractContextManager[None]:
    """Lock a run's folder for this process.

    Raises:
        BusyError: another process writes to it.
    """
    busy = BusyError(f"{run}: another train-student is writing to this run; wait for it, or choose another --out")
    return exclusive_folder(run, busy)


def prepare_run(config: TrainingConfig, setup: TrainingSetup, world: World = SINGLE_PROCESS) -> Trainer:
    """The trainer of a run, restored from its newest or the given checkpoint; writes nothing.

    Raises:
        CheckpointError: the checkpoint is damaged or of another run, or there is none and the folder contains the
            student of another run.
        UsageError: ``--resume never`` for a folder with a run, or ``--lengthen`` for one without a checkpoint.
    """
    run, document = config.out, run_document(config, setup)
    trainer = Trainer(config, setup, document, world)
    found = world.from_leader(lambda: _wanted_checkpoint(config))
    if found is not None:
        checkpoint = world.raise_on_all(lambda: _checked_checkpoint(found, trainer))
        trainer.restore(checkpoint, found)
    else:
        world.raise_on_all(lambda: check_replaceable(run, document) if world.is_leader else None)
    return trainer


def _wanted_checkpoint(config: TrainingConfig) -> Path | None:
    found = find_checkpoint(config.resume, config.out / "checkpoints")
    if found is None and config.lengthen:
        require_checkpoint_to_lengthen(config.out)
    return found


def _checked_checkpoint(found: Path, trainer: Trainer) -> Checkpoint:
    checkpoint = load_checkpoint(found)
    check_continues(found, checkpoint, trainer.document, trainer.setup.input.document())
    trainer.document = lengthened_document(found, checkpoint.config, trainer.document, checkpoint.step)
    return checkpoint


def open_log(trainer: Trainer, command: str | None = None) -> MetricsLog | None:
    """Open the metrics log of a prepared run; every process has to call it, all but the leader get None.

    Writes ``config.json`` first, then the configuration and the present W to TensorBoard.

    Args:
        trainer: the run.
        command: recorded in ``config.json``; None for ``sys.argv``.

    Raises:
        StorageError: the operating system refused.
    """
    mixtures = trainer.state.mixtures()
    return trainer.world.raise_on_all(
        lambda: _opened_log(trainer, mixtures, command) if trainer.world.is_leader else None
    )


def _opened_log(trainer: Trainer, mixtures: Sequence[Tensor | None], command: str | None) -> MetricsLog:
    config, setup, run, step = trainer.config, trainer.setup, trainer.config.out, trainer.step
    record_start(run, trainer.document, setup.input.caches, step=step, processes=trainer.world.size, command=command)
    tracker = WandbRun(config.wandb, run, trainer.document) if config.wandb else None
    log = MetricsLog(run, first_step=step, tracker=tracker)
    with contextlib.ExitStack() as unless_ready:
        unless_ready.callback(log.close)
        log.write_configuration({**trainer.document, "teachers": " and ".join(setup.teacher_names)})
        log.write_images(step, mixture_images(setup, mixtures))
        unless_ready.pop_all()
    return log


def conclude_run(trainer: Trainer, resumed: int, seconds: float, *, diverged: bool = False) -> TrainingSummary:
    """Write the student and the pictures of a run whose schedule is over, unless it diverged; sum up the run."""
    finished = trainer.step >= trainer.schedule.total_steps and not diverged
    trainer.world.raise_on_all(lambda: _write_student(trainer) if finished else None)
    return _summary(trainer.config.out, trainer, trainer.setup, resumed, finished, seconds)


def run_document(config: TrainingConfig, setup: TrainingSetup) -> dict[str, Any]:
    """The resolved config of a run, for ``config.json`` and checkpoints."""
    return {
        **config.document(),
        "device": setup.device.type,
        "precision": setup.precision,
        "mask": setup.input.masks.kind,
        "mask_ratio": setup.input.masks.ratio,
        "seeds": list(setup.input.caches.seeds),
    }


def require_run_folder(config: TrainingConfig) -> None:
    """Refuse an ``--out`` that is a cache, lies in one of ``--shards``, or contains something else.

    Raises:
        UsageError: choose another ``--out``.
    """
    run = config.out
    if (run / "receipts").is_dir():
        raise UsageError(f"{run}: is a feature cache; --out needs a folder of its own")
    for cache in config.folders:
        if cache.resolve() in (run.resolve(), *run.resolve().parents):
            raise UsageError(f"{run}: is in the feature cache {cache}; --out needs a folder of its own")
    require_own_folder(run, kind="a run", marker="config.json", belongs=has_field("shards"))


def _write_student(trainer: Trainer) -> None:
    """All processes gather the student, the leader writes it."""
    run, student = trainer.config.out, trainer.setup.model.student
    weights, mixtures = student.export_state(), trainer.state.mixtures()
    if not trainer.world.is_leader:
        return
    save_student(student, run / "student.safetensors", weights)
    if trainer.state.average is not None:
        save_student(cast("Student", trainer.state.average.module), run / "student-ema.safetensors")
    setup = trainer.setup
    draw_mixtures(setup, mixtures, run)
    title = f"{setup.model.student.name} learning from {' and '.join(setup.teacher_names)}"
    lines = _logged(run, setup.level_names)
    draw_loss(lines, setup.level_labels, run / "loss.png", title=title, loss=trainer.config.loss)


def _summary(
    run: Path, trainer: Trainer, setup: TrainingSetup, resumed: int, finished: bool, seconds: float
) -> TrainingSummary:
    lines = _logged(run, setup.level_names)
    here = [line for line in lines if line["step"] >= resumed]
    return TrainingSummary(
        run=str(run),
        student_file=str(run / "student.safetensors") if finished else None,
        steps=trainer.step,
        total_steps=trainer.schedule.total_steps,
        resumed_from_step=resumed,
        first_loss=lines[0]["loss"] if lines else None,
        final_loss=lines[-1]["loss"] if lines else None,
        seconds=round(seconds, 3),
        images_per_second=_median(here, "images_per_second"),
        input_wait_share=_median(here, "input_wait_share"),
        note="; ".join([*lasting_notes(trainer), *(loss_notes(lines, trainer.config) if finished else [])]) or None,
    )


def _logged(run: Path, levels: Sequence[str]) -> list[dict[str, Any]]:
    """Lines of the run's metrics with all numbers that are drawn and summed up; skips lines changed by hand."""
    names = ("loss", "lr", "images_per_second", "input_wait_share")

    def is_complete(line: dict[str, Any]) -> bool:
        by_level = line.get("level_loss")
        if not isinstance(by_level, dict) or [*by_level] != [*levels]:
            return False
        return all(isinstance(value, float | int) for value in (*map(line.get, names), *by_level.values()))

    return [line for line in read_metrics(run / "metrics.jsonl") if is_complete(line)]


def _median(lines: list[dict[str, Any]], name: str) -> float | None:
    return statistics.median(line[name] for line in lines) if lines else None
