"""Flags that all measures have in common: the model and the images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lookonce.commands.command import CommonOptions
from lookonce.commands.early_checks import announce, check_model, check_teacher
from lookonce.shared.config_values import Count, validate
from lookonce.shared.errors import UsageError
from lookonce.shared.freed_memory import keep_freed_memory
from lookonce.shared.given_flags import refuse_without_effect
from lookonce.shared.normalisation import IMAGENET, RGB, Normalisation, require_rgb
from lookonce.shared.printing import Result

if TYPE_CHECKING:
    from lookonce.train.evaluation.encoders.pooling import Pool
    from lookonce.train.evaluation.encoders.student_encoder import StudentEncoder
    from lookonce.train.evaluation.encoders.teacher_encoder import TeacherEncoder
    from lookonce.train.evaluation.labelled_images import LabelledImages

DEFAULT_VIEW_SIZE = 224


@dataclass(frozen=True, kw_only=True)
class StudentOptions(CommonOptions):
    """Flags of measures of a student."""

    images: Path
    """Folder with train/CLASS/... and test/CLASS/... images."""
    weights: Path | None = None
    """Evaluate a student: student.safetensors of a run, a tuned or probed model.safetensors, or a run's folder."""
    student: str | None = None
    """timm name of the student; needed with --untrained, and if the file of --weights does not contain it."""
    untrained: bool = False
    """Evaluate a randomly initialised --student, as a baseline."""
    view_size: Count | None = None
    """Side of the views in pixels; default: that of the student's training, 224 for teacher and untrained student.
    Position embeddings of weights of another size are interpolated."""
    mean: RGB | None = None
    """Mean subtracted from the pixels (RGB, 0 to 1); default: that of the weights."""
    std: RGB | None = None
    """Standard deviation that divides them (RGB, above 0); default: that of the weights."""
    batch_size: Count = 64
    """Images per forward pass without training."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs."""

    def __post_init__(self) -> None:
        """Refuse values out of range, and flags that do not go together.

        Raises:
            UsageError: with the flags, and what is allowed.
        """
        models = self._models()
        chosen = [flag for flag, (_, given) in models.items() if given]
        if len(chosen) != 1:
            described = [f"{flag} {what}".strip() for flag, (what, _) in models.items()]
            raise UsageError(
                f"give exactly one of {', '.join(described[:-1])} and {described[-1]}, "
                f"found {' and '.join(chosen) or 'none of them'}"
            )
        if self.untrained and self.student is None:
            raise UsageError("--untrained needs --student NAME: the timm name of the model to initialise")
        validate(self)
        require_rgb(self.mean, self.std)

    def _models(self) -> dict[str, tuple[str, Any]]:
        """The flags that choose the model: description and value of each."""
        return {
            "--weights": ("FILE (a student)", self.weights),
            "--untrained": ("(with --student NAME)", self.untrained),
        }


@dataclass(frozen=True, kw_only=True)
class FrozenModelOptions(StudentOptions):
    """Flags that choose a frozen model, a student or a teacher."""

    teacher: str | None = None
    """Evaluate a teacher: its name, as for extract-features."""
    teacher_weights: Path | None = None
    """The teacher's weights file; default: the hub cache or the hub."""
    patch_size: Count = 16
    """With --teacher: side of a student's patches in pixels, which fixes the teacher's patch grid."""

    def __post_init__(self) -> None:
        """Refuse values out of range, and flags that do not go together.

        Raises:
            UsageError: with the flags, and what is allowed.
        """
        super().__post_init__()
        if self.teacher is not None and self.student is not None:
            raise UsageError("--student goes with --weights or --untrained, not with --teacher")
        if self.teacher is None and self.teacher_weights is not None:
            raise UsageError("--teacher-weights goes with --teacher NAME")
        if self.teacher is None:
            refuse_without_effect(self, "--teacher", "patch_size")

    def _models(self) -> dict[str, tuple[str, Any]]:
        students = super()._models()
        return {"--weights": students["--weights"], "--teacher": ("NAME", self.teacher), **students}


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(FrozenModelOptions):
    """Flags of measures that take one feature vector per image."""

    pool: Literal["cls", "mean", "cls+mean"] = "cls"
    """Tokens of the last block that make the feature: the class token, the mean of the patches, or both."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One subcommand of ``evaluate-student``."""

    name: str
    """The word on the command line."""
    description: str
    """For ``--help``."""
    options: type[StudentOptions]
    """Its flags."""
    run: Callable[[Any], Result]
    """Does the work for an instance of ``options``."""


def open_images(options: StudentOptions, measure: str) -> LabelledImages:
    """Check everything that needs neither torch nor timm, then list the images; notes go to standard error.

    Args:
        options: flags of the measure.
        measure: its name, for the announcement.

    Raises:
        UsageError: no such student or teacher.
        CheckpointError: no weights of a student at that path.
        TeacherError: no weights of a teacher at that path.
        SourceError: the images are missing or not in class folders.
    """
    from lookonce.train.evaluation.labelled_images import open_labelled_images, require_splits

    check_models(options)
    require_splits(options.images)
    announce_evaluation(options, measure)
    images = open_labelled_images(options.images)
    for note in images.notes:
        print_note(note)
    return images


def check_models(options: StudentOptions) -> None:
    """Check the names and files of the models, without torch or timm.

    Raises:
        UsageError: no such student or teacher.
        CheckpointError: no weights of a student at that path.
        TeacherError: no weights of a teacher at that path.
    """
    check_model(options.weights, options.student)
    if isinstance(options, FrozenModelOptions) and options.teacher is not None:
        check_teacher(options.teacher, options.teacher_weights)


def announce_evaluation(options: StudentOptions, measure: str) -> None:
    """Print on standard error which model is evaluated on which images."""
    teacher = options.teacher if isinstance(options, FrozenModelOptions) else None
    model = f"teacher {teacher}" if teacher is not None else options.weights or f"an untrained {options.student}"
    announce(f"evaluating {model} on {options.images} by {measure}")


def build_encoder(
    options: FrozenModelOptions, pool: Pool, seed: int, block: int | None = None
) -> StudentEncoder | TeacherEncoder:
    """The model that the options name, ready to encode.

    Args:
        options: flags of the measure.
        pool: see ``pool_tokens``.
        seed: seed of an untrained student's weights.
        block: number of the block whose output is read, from 1; None for the last.

    Raises:
        UsageError: unknown model, or one that does not fit the view size.
        CheckpointError: the student's weights cannot be read or do not fit.
        TeacherError: the teacher's weights cannot be found or do not fit.
    """
    if options.teacher is None:
        return build_student(options, pool, seed, block)
    from lookonce.extract.teachers import load_teacher, resolve_teacher
    from lookonce.train.evaluation.encoders.teacher_encoder import TeacherEncoder
    from lookonce.weights.device import resolve_device

    device = resolve_device(options.device)
    keep_freed_memory(device.type)
    spec = resolve_teacher(options.teacher)
    own = Normalisation(mean=spec.mean, std=spec.std)
    used = own.replaced(options.mean, options.std)
    teacher = load_teacher(
        spec,
        weights=options.teacher_weights,
        view_size=options.view_size or DEFAULT_VIEW_SIZE,
        patch_size=options.patch_size,
        blocks="top1" if block is None else str(block),
        device=device,
        normalisation=used,
    )
    instead = used if used != own else None
    return TeacherEncoder(teacher, pool=pool, weights=options.teacher_weights, instead=instead)


def build_student(options: StudentOptions, pool: Pool, seed: int, block: int | None = None) -> StudentEncoder:
    """The student that the options name, as an encoder; prints the normalisation of its pixels on standard error.

    Args:
        options: flags of the measure.
        pool: see ``pool_tokens``.
        seed: seed of an untrained student's weights.
        block: number of the block whose output is read, from 1; None for the last.

    Raises:
        UsageError: unknown model, or one that does not fit the view size.
        CheckpointError: the weights cannot be read or do not fit.
    """
    from lookonce.train.evaluation.encoders.student_encoder import StudentEncoder, load_student
    from lookonce.train.model.student import Student
    from lookonce.weights.device import resolve_device

    device = resolve_device(options.device)
    keep_freed_memory(device.type)
    if options.weights is None:
        normalisation = IMAGENET.replaced(options.mean, options.std)
        student = Student(
            options.student or "",
            img_size=options.view_size or DEFAULT_VIEW_SIZE,
            seed=seed,
            normalisation=normalisation,
        )
        print_note(f"{student.name}: pixels normalised by {normalisation}")
        return StudentEncoder(student, pool=pool, device=device, block=block)
    student = load_student(
        options.weights,
        name=options.student,
        view_size=options.view_size,
        mean=options.mean,
        std=options.std,
        say=print_note,
    )
    return StudentEncoder(student, pool=pool, device=device, weights=options.weights, block=block)


def print_note(note: str) -> None:
    """Print a note for the user on standard error."""
    print(note, file=sys.stderr, flush=True)
