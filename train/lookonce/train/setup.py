"""Opens the caches and builds the model of a run; refuses what does not fit before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lookonce.cache.read.reader import CacheReader
from lookonce.shared.errors import CacheMismatchError
from lookonce.train.checkpoints.checkpoint_file import checkpoints_in
from lookonce.train.config import TrainingConfig
from lookonce.train.data.caches.joined_caches import JoinedCaches, open_caches
from lookonce.train.data.target_decoder import make_decoder
from lookonce.train.data.training_input import TrainingInput
from lookonce.train.distributed.world import SINGLE_PROCESS, World
from lookonce.train.model.alignment import DynamicAlignment
from lookonce.train.model.alignment_step import AlignmentStep, TeacherAlignment
from lookonce.train.model.initial_weights import start_from_weights
from lookonce.train.model.student import Student
from lookonce.weights.device import resolve_device


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """A run, ready to step: its input and its model."""

    input: TrainingInput
    model: AlignmentStep
    device: torch.device
    precision: str
    """fp32 or bf16; ``auto`` is resolved."""
    weights_notes: Sequence[str] = ()
    """Notes for the user on the weights that the student starts from."""

    @property
    def level_names(self) -> list[str]:
        """Name of each aligned level: the teacher's block, with several caches after the cache's number: ``2/12``."""
        alignments = self.model.alignments
        return [
            str(block) if len(alignments) == 1 else f"{number}/{block}"
            for number, alignment in enumerate(alignments, start=1)
            for block in alignment.teacher_blocks
        ]

    @property
    def teacher_names(self) -> list[str]:
        """Name of each cache's teacher, for people; two caches of one teacher get the name of their folder, too."""
        names = [reader.manifest.recipe.teacher.name.rpartition(":")[2] for reader in self.input.caches.readers]
        return [
            f"{name} ({reader.place.rpartition('/')[2]})" if names.count(name) > 1 else name
            for name, reader in zip(names, self.input.caches.readers, strict=True)
        ]

    @property
    def level_labels(self) -> dict[str, str]:
        """Label of each level of ``level_names`` in pictures."""
        labels = (
            f"{teacher}, block {block}"
            for teacher, alignment in zip(self.teacher_names, self.model.alignments, strict=True)
            for block in alignment.teacher_blocks
        )
        return dict(zip(self.level_names, labels, strict=True))

    @property
    def notes(self) -> list[str]:
        """Notes for the user before the first step."""
        notes = [*self.weights_notes, *([self.input.masks.note] if self.input.masks.note else [])]
        notes += [
            f"{count} samples of {reader.place} are not in every cache and are not used"
            for reader, count in zip(self.input.caches.readers, self.input.caches.missing_elsewhere, strict=True)
            if count
        ]
        notes += [
            f"of {reader.place}, {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))} "
            f"{'is' if len(seeds) == 1 else 'are'} not in every cache and not used"
            for reader, seeds in zip(self.input.caches.readers, self.input.caches.unused_seeds, strict=True)
            if seeds
        ]
        images, batch_size = len(self.input.caches.rows), self.input.order.batch_size
        if batch_size > images:
            notes.append(
                f"--batch-size {batch_size} is more than the {images} images: a step contains images of several "
                "epochs, and the learning rate is scaled to the batch; a smaller batch is usual for so few images"
            )
        return notes


def set_up(
    config: TrainingConfig, *, world: World = SINGLE_PROCESS, caches: JoinedCaches | None = None
) -> TrainingSetup:
    """Open the caches; build input, student and alignments.

    Args:
        config: the run.
        world: processes of the run.
        caches: the run's caches, if they are open already.

    Raises:
        CacheMismatchError: the student's patch size, or the wanted layers, do not fit a cache.
        CacheError, UsageError, WeightsError: see ``TrainingInput``, ``Student`` and ``start_from_weights``.
    """
    caches = caches or open_caches(config)
    recipe = caches.first.manifest.recipe
    student = Student(
        config.student,
        img_size=recipe.view_size,
        seed=config.seed,
        activation_checkpointing=config.activation_checkpointing,
        normalisation=config.normalisation,
    )
    if student.patch_size != recipe.patch_size:
        raise CacheMismatchError(
            f"{caches.first.place}: this cache has patches of {recipe.patch_size} px ({recipe.patches} per view), the "
            f"student {config.student} has patches of {student.patch_size} px; use a student with patch "
            f"{recipe.patch_size}, or extract with --patch-size {student.patch_size}"
        )
    weights_notes = _start_from_weights(config, student)
    device = resolve_device(config.device, world.local_rank if world.size > 1 else None)
    training_input = TrainingInput.of(
        caches,
        config,
        target_norm=config.target_norm,
        drop_path=config.drop_path,
        student_depth=student.depth,
        page_locked=device.type == "cuda",
    )
    automatic = "bf16" if device.type == "cuda" else "fp32"
    precision = automatic if config.precision == "auto" else config.precision
    model = AlignmentStep(
        student,
        [_teacher_alignment(config, reader, student, number) for number, reader in enumerate(caches.readers)],
        weights=_teacher_weights(config),
        autocast=torch.bfloat16 if precision == "bf16" else None,
    ).to(device)
    return TrainingSetup(
        input=training_input, model=model, device=device, precision=precision, weights_notes=weights_notes
    )


def _start_from_weights(config: TrainingConfig, student: Student) -> list[str]:
    """Load ``--init-weights``, unless a checkpoint replaces them; returns notes for the user."""
    if config.init_weights is None:
        return []
    if config.resume not in ("auto", "never") or checkpoints_in(config.out / "checkpoints"):
        return [f"--init-weights {config.init_weights} is not read again: this run resumes"]
    return start_from_weights(student, config.init_weights)


def trainable(model: AlignmentStep) -> nn.Module:
    """Student and alignments, whose parameters are optimised."""
    return nn.ModuleDict({"student": model.student, "alignments": nn.ModuleList(model.alignments)})


def _teacher_alignment(config: TrainingConfig, reader: CacheReader, student: Student, number: int) -> TeacherAlignment:
    recipe = reader.manifest.recipe
    alignment = DynamicAlignment(
        config.alignment_config(),
        student_blocks=student.depth,
        student_dim=student.dim,
        teacher_levels=recipe.teacher.block_count,
        teacher_dim=recipe.teacher.width,
        seed=config.seed + 1 + number,
    )
    layers = reader.layer_positions(alignment.teacher_blocks)
    return TeacherAlignment(alignment, make_decoder(reader.manifest, layers), layers=layers)


def _teacher_weights(config: TrainingConfig) -> Sequence[float]:
    return config.teacher_loss_weights or (1.0 / len(config.shards),) * len(config.shards)
