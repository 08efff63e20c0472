"""Notes of a run for the user, before it starts and when it is over."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lookonce.train.checkpoints.lengthening import lengthening_note
from lookonce.train.config import TrainingConfig
from lookonce.train.loop.step_memory import memory_note
from lookonce.train.loop.trainer import Trainer


def print_start(trainer: Trainer) -> None:
    """Print to standard error what is about to be trained, and the notes for the user."""
    config, setup, caches = trainer.config, trainer.setup, trainer.setup.input.caches
    print(
        f"{config.student} on {setup.device.type} ({setup.precision}): {_count(len(caches.rows), 'image')}, "
        f"{_count(len(caches.seeds), 'seed')}, {steps_phrase(trainer)}; pixels normalised by "
        f"{config.normalisation}",
        file=sys.stderr,
        flush=True,
    )
    memory = memory_note(config, setup) if trainer.unfinished and trainer.world.size == 1 else None
    for note in (*notes(trainer), memory):
        if note is not None:
            print(f"note: {note}", file=sys.stderr, flush=True)


def steps_phrase(trainer: Trainer) -> str:
    """Length of a run, and the step that it resumes from: ``938 steps of 64 views, from step 100``."""
    order, total = trainer.setup.input.order, trainer.schedule.total_steps
    views = min(order.batch_size, order.samples_per_epoch * trainer.config.epochs)  # a single step may be smaller
    begun = f", from step {trainer.step}" if trainer.step else ""
    return f"{_count(total, 'step')} of {_count(views, 'view')}{begun}"


def notes(trainer: Trainer) -> list[str]:
    """Notes for the user on a prepared run."""
    if not trainer.unfinished:
        return [*lasting_notes(trainer), nothing_left(trainer)]
    step, last_rate = trainer.step, trainer.state.optimizer.param_groups[0]["lr"]
    lengthened = lengthening_note(trainer.document, step, last_rate, trainer.schedule.learning_rate(step))
    return [*lasting_notes(trainer), *([lengthened] if lengthened else [])]


def lasting_notes(trainer: Trainer) -> list[str]:
    """The notes that stay true when the run is over."""
    return trainer.setup.notes + trainer.schedule.notes(trainer.config) + without_effect(trainer)


def without_effect(trainer: Trainer) -> list[str]:
    """Notes on flags without effect for these caches and this number of processes."""
    config, first = trainer.config, trainer.setup.input.caches.first
    unused = []
    if config.images is not None and first.manifest.stores_pixels:
        unused.append(f"--images {config.images} is not used: {first.place} contains the views")
    if config.parallel == "fsdp" and trainer.world.size == 1:
        unused.append("--parallel fsdp changes nothing: the run has one process")
    if config.alignment == "layerwise" and config.mix_order != "adapt-then-mix":
        unused.append(f"--mix-order {config.mix_order} has no effect: --alignment layerwise mixes nothing")
    return unused


def nothing_left(trainer: Trainer) -> str:
    """Why a run has no step left."""
    config, step, total = trainer.config, trainer.step, trainer.schedule.total_steps
    if step >= total:
        return (
            f"{config.out}: finished, all {total} steps (--epochs {config.epochs}) were done before; to train this run "
            "further, give more --epochs and --lengthen"
        )
    return (
        f"{config.out}: {step} of {total} steps were done before, which is not less than --max-steps "
        f"{config.max_steps}; to resume, raise --max-steps or leave it out"
    )


def loss_notes(lines: Sequence[Mapping[str, Any]], config: TrainingConfig) -> list[str]:
    """Note on a finished run whose loss did not fall, from its lines of ``metrics.jsonl``."""
    if len(lines) < 2 or lines[-1]["loss"] < lines[0]["loss"]:
        return []
    return [
        (
            f"the loss did not fall: {lines[0]['loss']:.4g} in the first logged step, "
            f"{lines[-1]['loss']:.4g} in the last; "
            f"the student learned nothing useful, try a lower --base-lr than {config.base_lr:g} or more --epochs"
        )
    ]


def _count(number: int, noun: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
