"""Stage two as one call: set up, resume, train, leave the student behind."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookonce.shared.atomic import TEMPORARY_MARK, write_json
from lookonce.shared.errors import BusyError, UsageError
from lookonce.shared.lock import LOCK_FILE, exclusive_folder
from lookonce.train.checkpoints import check_continues, find_checkpoint, load_checkpoint
from lookonce.train.config import TrainingConfig
from lookonce.train.metrics import MetricsLog, read_metrics
from lookonce.train.pictures import draw_loss, draw_mixture
from lookonce.train.setup import TrainingSetup, set_up
from lookonce.train.student_file import save_student
from lookonce.train.trainer import Trainer


@dataclass(frozen=True)
class TrainingSummary:
    """What a run did."""

    run: str
    student_file: str | None
    """``student.safetensors``; None when ``--max-steps`` ended the run before its schedule did."""
    steps: int
    total_steps: int
    resumed_from_step: int
    first_loss: float | None
    """Loss of the first logged step; None when ``metrics.jsonl`` of a finished run is gone."""
    final_loss: float | None
    """Loss of the last logged step."""
    seconds: float
    images_per_second: float | None
    """Median over the logged steps of this call, or of the run when this call had none."""
    input_wait_share: float | None
    """Share of the time that was spent waiting for input, 0 to 1; median likewise."""
    note: str | None
    """What the cache's token subset meant for the masks; None when it stores every patch."""

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        return asdict(self)


def train_student(config: TrainingConfig, *, show_progress: bool = True) -> TrainingSummary:
    """Train a student from a cache; the teacher is never run and its files are not needed.

    Raises:
        LookonceError: see ``setup``, ``checkpoints`` and ``trainer``.
    """
    started = time.perf_counter()
    run = Path(config.out)
    _require_own_folder(run, Path(config.shards[0]))
    setup = set_up(config)  # before the folder is made: a run that is refused leaves nothing behind
    busy = BusyError(f"{run}: another train-student is writing to this run; wait for it, or choose another --out")
    with exclusive_folder(run, busy):
        return _train(config, setup, run, started, show_progress=show_progress)


def _train(
    config: TrainingConfig, setup: TrainingSetup, run: Path, started: float, *, show_progress: bool
) -> TrainingSummary:
    found = find_checkpoint(config.resume, run / "checkpoints")
    document = {
        **config.document(),
        "device": setup.device.type,
        "precision": setup.precision,
        "mask": setup.masks.kind,
        "mask_ratio": setup.masks.ratio,
        "seeds": list(setup.reader.seeds),
    }
    if show_progress and setup.masks.note:
        print(f"note: {setup.masks.note}", file=sys.stderr, flush=True)
    trainer = Trainer(config, setup, document)
    if found is not None:
        checkpoint = load_checkpoint(found)
        check_continues(found, checkpoint, document, setup.data_document())
        trainer.restore(checkpoint)
    resumed = trainer.step
    write_json(run / "config.json", document)
    log = MetricsLog(run, first_step=resumed)
    try:
        trainer.train(log, run / "checkpoints", show_progress=show_progress)
    finally:
        log.close()
    _leave_pictures(run, setup)
    finished = trainer.step >= trainer.total_steps
    if finished:
        save_student(setup.model.student, run / "student.safetensors")
    return _summary(run, trainer, setup, resumed, finished, time.perf_counter() - started)


def _require_own_folder(run: Path, cache: Path) -> None:
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run}: is a file; --out needs a folder")
    if run.resolve() == cache.resolve() or cache.resolve() in run.resolve().parents or (run / "receipts").is_dir():
        raise UsageError(f"{run}: is (in) a feature cache; --out needs a folder of its own")
    foreign = (
        [path for path in run.iterdir() if TEMPORARY_MARK not in path.name and path.name != LOCK_FILE]
        if run.is_dir()
        else []
    )
    if foreign and not (run / "config.json").is_file():
        raise UsageError(
            f"{run}: holds other files (such as {foreign[0].name}) and no config.json of a run; "
            "choose a new or empty folder for --out"
        )


def _leave_pictures(run: Path, setup: TrainingSetup) -> None:
    alignment = setup.model.alignment
    if alignment.weight is not None and alignment.initial_weight is not None:
        weight, initial = (
            tensor.detach().float().cpu().numpy() for tensor in (alignment.weight, alignment.initial_weight)
        )
        draw_mixture(weight, initial, alignment.teacher_blocks, run / "alignment.png")
    draw_loss(read_metrics(run / "metrics.jsonl"), run / "loss.png")


def _summary(
    run: Path, trainer: Trainer, setup: TrainingSetup, resumed: int, finished: bool, seconds: float
) -> TrainingSummary:
    lines = read_metrics(run / "metrics.jsonl")
    here = [line for line in lines if line["step"] >= resumed] or lines
    return TrainingSummary(
        run=str(run),
        student_file=str(run / "student.safetensors") if finished else None,
        steps=trainer.step,
        total_steps=trainer.total_steps,
        resumed_from_step=resumed,
        first_loss=lines[0]["loss"] if lines else None,
        final_loss=lines[-1]["loss"] if lines else None,
        seconds=round(seconds, 3),
        images_per_second=_median(here, "images_per_second"),
        input_wait_share=_median(here, "input_wait_share"),
        note=setup.masks.note,
    )


def _median(lines: list[dict[str, Any]], name: str) -> float | None:
    return statistics.median(line[name] for line in lines) if lines else None
