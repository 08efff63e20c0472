"""Stage two as one call: set up, resume, train, leave the student behind."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookonce.cache.layout import load_json
from lookonce.shared.atomic import storage_error, write_json
from lookonce.shared.errors import UsageError
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
    first_loss: float
    final_loss: float
    seconds: float
    images_per_second: float
    input_wait_share: float

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
    found = find_checkpoint(config.resume, run / "checkpoints")
    setup = set_up(config)
    _prepare_folder(run)
    document = config.document()
    trainer = Trainer(config, setup, document)
    if found is not None:
        checkpoint = load_checkpoint(found)
        manifest = setup.reader.manifest
        check_continues(found, checkpoint, document, manifest.recipe.fingerprint, manifest.encoding.digest)
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
    return _summary(run, trainer, resumed, finished, time.perf_counter() - started)


def _prepare_folder(run: Path) -> None:
    if run.is_file():
        raise UsageError(f"{run}: is a file; --out needs a folder")
    if run.is_dir() and any(run.iterdir()) and not (run / "config.json").is_file():
        raise UsageError(
            f"{run}: holds other files and no config.json of a run; choose a new or empty folder for --out"
        )
    if (run / "manifest.json").is_file() and "fingerprint" in load_json(run / "manifest.json"):
        raise UsageError(f"{run}: is a feature cache; --out needs a folder of its own")
    try:
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, run, "making the run's folder") from error


def _leave_pictures(run: Path, setup: TrainingSetup) -> None:
    alignment = setup.model.alignment
    if alignment.weight is not None:
        weight = alignment.weight.detach().float().cpu().numpy()
        draw_mixture(weight, alignment.teacher_blocks, run / "alignment.png")
    draw_loss(read_metrics(run / "metrics.jsonl"), run / "loss.png")


def _summary(run: Path, trainer: Trainer, resumed: int, finished: bool, seconds: float) -> TrainingSummary:
    lines = read_metrics(run / "metrics.jsonl")
    here = [line for line in lines if line["step"] >= resumed] or lines
    return TrainingSummary(
        run=str(run),
        student_file=str(run / "student.safetensors") if finished else None,
        steps=trainer.step,
        total_steps=trainer.total_steps,
        resumed_from_step=resumed,
        first_loss=lines[0]["loss"],
        final_loss=lines[-1]["loss"],
        seconds=round(seconds, 3),
        images_per_second=sorted(line["images_per_second"] for line in here)[len(here) // 2],
        input_wait_share=sorted(line["input_wait_share"] for line in here)[len(here) // 2],
    )
