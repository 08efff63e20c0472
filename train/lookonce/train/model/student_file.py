"""``student.safetensors``: the student's weights under timm's names, with the metadata to load them."""

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
    """Write the student by rename, and beside it the folder that timm loads (see ``leave_timm_folder``).

    ``timm.create_model(NAME, img_size=SIZE)`` loads the tensors strictly, except for its head. The file's metadata
    contains ``student`` (timm's name), ``view_size``, ``patch_size`` and timm's ``pretrained_cfg``, with mean and std.

    Args:
        student: its name, sizes and normalisation go into the metadata.
        path: the file.
        weights: from :meth:`Student.export_state`; None exports them now.

    Raises:
        StorageError: the operating system refused.
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
    """The file with sorted metadata: safetensors writes it in random order, and equal students give equal files."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8").ljust(size)
    return data[:8] + text + data[8 + size :]
