"""Starting a student from weights instead of from scratch."""

from __future__ import annotations

from pathlib import Path

from lookonce.shared.errors import UsageError
from lookonce.train.model.student import Student
from lookonce.train.model.student_weights import fit_student_weights, read_student_file, timms_normalisation


def start_from_weights(student: Student, path: Path) -> list[str]:
    """Put the weights of a file into a student that is about to be trained.

    Its position embedding is the file's then, interpolated to the student's grid; like the sine-cosine one it is not
    trained. Adapters and W start as they always do.

    Args:
        student: of the file's architecture.
        path: safetensors or checkpoint under timm's names, or the folder of a run.

    Returns:
        What the user should know: how the file was read, and what is unknown of its normalisation.

    Raises:
        UsageError: the weights want other pixels than the student is given.
        WeightsError, CheckpointError: the file cannot be read, or a parameter is missing, too much or of another shape.
    """
    file = read_student_file(path, name=student.name)
    used, known = student.normalisation, file.normalisation
    if known is not None and known != used:
        raise UsageError(
            f"--init-weights {path}: it was trained on pixels normalised by {known}, this run gives it {used}; "
            f"give {known.flags}"
        )
    fit_student_weights(student, file.state, origin=file.path)
    notes = [f"the student starts from {file.path}", *file.notes]
    if known is None and not file.ours:
        notes.append(f"{file.path} does not say what its pixels were normalised by, this run takes {used}")
        if (timms := timms_normalisation(student.name)) not in (None, used):
            notes[-1] += f" (timm's own weights of {student.name} have {timms}: {timms.flags if timms else ''})"
    if file.view_size != student.img_size:
        notes.append(f"its position embedding is interpolated from views of {file.view_size} px to {student.img_size}")
    return notes
