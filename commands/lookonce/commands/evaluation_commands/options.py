"""What every way of evaluating has in common: whose features, of which images."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lookonce.commands.command import CommonOptions
from lookonce.commands.early_checks import announce, check_model, check_teacher
from lookonce.shared.errors import UsageError
from lookonce.shared.freed_memory import keep_freed_memory
from lookonce.shared.given_flags import refuse_without_effect
from lookonce.shared.normalisation import IMAGENET, RGB, Normalisation, require_rgb

if TYPE_CHECKING:
    from lookonce.train.evaluation.encoders.encoder import Encoder
    from lookonce.train.evaluation.encoders.pooling import Pool
    from lookonce.train.evaluation.encoders.student_encoder import StudentEncoder
    from lookonce.train.evaluation.labelled_images import LabelledImages

DEFAULT_VIEW_SIZE = 224


@dataclass(frozen=True, kw_only=True)
class StudentOptions(CommonOptions):
    """Flags of every evaluation: of a student."""

    images: Path
    """Folder with train/CLASS/... and test/CLASS/... images."""
    weights: Path | None = None
    """Evaluate a student: student.safetensors of a run, a tuned or probed model.safetensors, or a run's folder."""
    student: str | None = None
    """timm name of the student; needed with --untrained, and with weights that do not name it themselves."""
    untrained: bool = False
    """Evaluate a freshly initialised --student, to compare with."""
    seed: int = 0
    """Seed of the untrained student's weights."""
    view_size: int | None = None
    """Side of the views in pixels; default: what the student was trained on, 224 for teacher and untrained student.
    At another size than the weights' own, position embeddings are interpolated."""
    mean: RGB | None = None
    """What is subtracted from the pixels (RGB, 0 to 1); default: what the weights say, or are known to want."""
    std: RGB | None = None
    """What they are then divided by (RGB, above 0); default: likewise."""
    batch_size: int = 64
    """Images a forward pass that learns nothing."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs."""

    def __post_init__(self) -> None:
        """Refuse combinations that say nothing, or two things.

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
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: must not be negative")
        self._require_at_least_one("view_size", "batch_size")
        require_rgb(self.mean, self.std)

    def _models(self) -> dict[str, tuple[str, Any]]:
        """Flag -> what it takes, and what was given: the ways to say which model is evaluated."""
        return {
            "--weights": ("FILE (a student)", self.weights),
            "--untrained": ("(with --student NAME)", self.untrained),
        }

    def _require_at_least_one(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(StudentOptions):
    """Flags of every evaluation of frozen features: of a student or a teacher."""

    teacher: str | None = None
    """Evaluate a teacher: its name, as for extract-features."""
    teacher_weights: Path | None = None
    """The teacher's weights file; otherwise the hub cache or the hub."""
    patch_size: int = 16
    """Side of the student's patches in pixels: decides the grid on which a teacher looks; no meaning for students."""
    pool: Literal["cls", "mean", "cls+mean"] = "cls"
    """Which tokens of the last block make the feature: the class token, the mean of the patches, or both."""

    def __post_init__(self) -> None:
        """Refuse combinations that say nothing, or two things.

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
        self._require_at_least_one("patch_size")

    def _models(self) -> dict[str, tuple[str, Any]]:
        students = super()._models()
        return {"--weights": students["--weights"], "--teacher": ("NAME", self.teacher), **students}


def open_images(options: StudentOptions, measure: str) -> LabelledImages:
    """List the images, once all is refused that needs neither torch nor timm.

    Args:
        options: of any measure.
        measure: how the model is judged, for the announcement.

    Raises:
        UsageError: no such student or teacher.
        CheckpointError: no weights of a student at that path.
        TeacherError: no weights of a teacher at that path.
        SourceError: the images are missing, or do not lie in class folders.
    """
    from lookonce.train.evaluation.labelled_images import open_labelled_images, require_splits

    check_model(options.weights, options.student)
    teacher = options.teacher if isinstance(options, EvaluationOptions) else None
    if isinstance(options, EvaluationOptions) and teacher is not None:
        check_teacher(teacher, options.teacher_weights)
    require_splits(options.images)
    model = f"teacher {teacher}" if teacher is not None else options.weights or f"an untrained {options.student}"
    announce(f"evaluating {model} on {options.images} by {measure}")
    return open_labelled_images(options.images)


def build_encoder(options: EvaluationOptions) -> Encoder:
    """The model that the options name, ready to encode.

    Raises:
        UsageError: unknown model, or a view size that is not the student's.
        CheckpointError: a student's weights cannot be read or do not fit.
        TeacherError: a teacher's weights cannot be had or do not fit.
    """
    if options.teacher is None:
        return build_student(options, options.pool)
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
        blocks="top1",
        device=device,
        normalisation=used,
    )
    instead = used if used != own else None
    return TeacherEncoder(teacher, pool=options.pool, weights=options.teacher_weights, instead=instead)


def build_student(options: StudentOptions, pool: Pool) -> StudentEncoder:
    """The student that the options name, as an encoder; what its pixels are normalised by goes to standard error.

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
            seed=options.seed,
            normalisation=normalisation,
        )
        print(f"{student.name}: pixels normalised by {normalisation}", file=sys.stderr, flush=True)
        return StudentEncoder(student, pool=pool, device=device)
    student = load_student(
        options.weights,
        name=options.student,
        view_size=options.view_size,
        mean=options.mean,
        std=options.std,
        say=lambda note: print(note, file=sys.stderr, flush=True),
    )
    return StudentEncoder(student, pool=pool, device=device, weights=options.weights)


def with_normalisation(result: Mapping[str, Any], encoder: Encoder) -> Mapping[str, Any]:
    """The result of an evaluation with the mean and std in use."""
    return {**result, "normalisation": encoder.normalisation.document()}
