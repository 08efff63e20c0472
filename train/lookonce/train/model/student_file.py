"""``student.safetensors``: the student alone, under timm's names, with what is needed to use it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from lookonce.shared.files.atomic import atomic_file
from lookonce.train.model.student import Student
from lookonce.train.model.timm_description import description_metadata, leave_timm_folder, timm_description


def save_student(student: Student, path: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the student by rename; its weights as :meth:`Student.export_state` gave them, or as they are now.

    ``timm.create_model(NAME, img_size=SIZE)`` loads the tensors strictly but for its head. The file's metadata holds
    ``student`` (timm's name), ``view_size``, ``patch_size`` and timm's ``pretrained_cfg``, with mean and std. Beside
    the file lies the folder that timm loads by itself, see ``leave_timm_folder``.
    """
    description = timm_description(student)
    metadata = {
        "student": student.name,
        "view_size": str(student.img_size),
        "patch_size": str(student.patch_size),
        **description_metadata(description),
    }
    save_weights(student.export_state() if weights is None else weights, metadata, path)
    leave_timm_folder(path, description)


def save_weights(state: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Write tensors (contiguous, on the CPU) as safetensors by rename; equal content gives equal files.

    Raises:
        StorageError: the operating system refused.
    """
    data = save(dict(state), metadata={**metadata, "format": "pt"})
    with atomic_file(path) as handle:
        handle.write(_with_sorted_metadata(data))


def _with_sorted_metadata(data: bytes) -> bytes:
    """The same file with its metadata in order: safetensors shuffles it, and equal students should be equal files."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8").ljust(size)
    return data[:8] + text + data[8 + size :]
