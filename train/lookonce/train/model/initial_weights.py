"""Starts a student from a file of weights (``--init-weights``)."""

from __future__ import annotations

from pathlib import Path

from lookonce.shared.errors import UsageError
from lookonce.train.model.student import Student
from lookonce.train.model.student_weights import fit_student_weights, read_student_file, timms_normalisation


def start_from_weights(student: Student, path: Path) -> list[str]:
    """Load the weights of a file into a student before training.

    The position embedding is interpolated to the student's grid; it is not trained, like the sine-cosine one. Adapters
    and W start as usual.

    Args:
        student: of the file's architecture.
        path: safetensors or checkpoint under timm's names, or the folder of a run.

    Returns:
        Notes for the user: how the file was read, and whether its normalisation is unknown.

    Raises:
        UsageError: the weights need another normalisation than the run's.
        WeightsError, CheckpointError: the file cannot be read, or its parameters do not fit the student.
    """
    file = read_student_file(path, name=student.name)
    used, known = student.normalisation, file.normalisation
    if known is not None and known != used:
        raise UsageError(
            f"--init-weights {path}: it was trained on pixels normalised by {known}, this run uses {used}; "
            f"give {known.flags}"
        )
    fit_student_weights(student, file.state, origin=file.path)
    notes = [f"the student starts from {file.path}", *file.notes]
    if known is None and not file.ours:
        notes.append(f"{file.path} does not record the normalisation of its pixels, this run uses {used}")
        if (timms := timms_normalisation(student.name)) not in (None, used):
            notes[-1] += f" (timm's own weights of {student.name} have {timms}: {timms.flags if timms else ''})"
    if file.view_size != student.img_size:
        notes.append(f"its position embedding is interpolated from views of {file.view_size} px to {student.img_size}")
    return notes
