"""The trained alignment of a run, which its checkpoints contain and its student file does not."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from lookonce.shared.errors import CheckpointError, UsageError
from lookonce.storage_schemas.recipe import TeacherIdentity
from lookonce.train.checkpoints.checkpoint_file import checkpoints_in, load_checkpoint
from lookonce.train.model.alignment import DynamicAlignment
from lookonce.train.model.alignment_config import AlignmentConfig
from lookonce.train.model.student import Student


def load_alignment(run: Path | str, student: Student, teacher: TeacherIdentity, *, number: int = 1) -> DynamicAlignment:
    """Load W and the adapters from the newest checkpoint of a run.

    Args:
        run: the run's folder.
        student: a student of the run's architecture; only its depth and width are used.
        teacher: the teacher of the run's cache, such as ``CachedTargets.teachers[0]``.
        number: 1-based number of the cache in the run's ``--shards``.

    Raises:
        UsageError: the run has no cache of this number.
        CheckpointError: the run has no checkpoint, its newest one is sharded or damaged, or it does not fit the
            student and the teacher.
    """
    present = checkpoints_in(Path(run) / "checkpoints")
    if not present:
        raise CheckpointError(f"{run}: expected checkpoints, found none; the alignment is stored nowhere else")
    path = present[-1]
    checkpoint = load_checkpoint(path)
    if path.is_dir():
        raise CheckpointError(
            f"{path}: expected a whole checkpoint, found a sharded one; resume with --checkpoint whole"
        )
    if not 1 <= number <= len(checkpoint.config["shards"]):
        raise UsageError(f"{path}: the run has {len(checkpoint.config['shards'])} caches, found number {number}")
    known = {field.name: checkpoint.config[field.name] for field in fields(AlignmentConfig)}
    alignment = DynamicAlignment(
        AlignmentConfig(**known),
        student_blocks=student.depth,
        student_dim=student.dim,
        teacher_levels=teacher.block_count,
        teacher_dim=teacher.width,
    )
    prefix = f"alignments.{number - 1}."
    module = checkpoint.state["module"]
    state = {name.removeprefix(prefix): value for name, value in module.items() if name.startswith(prefix)}
    try:
        alignment.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its alignment does not fit this student and teacher: {error}") from error
    return alignment
