"""``student.safetensors``: the student alone, under timm's names, with what is needed to use it again."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save

from lookonce.shared.atomic import atomic_file
from lookonce.train.student import Student


def save_student(student: Student, path: Path) -> None:
    """Write the student by rename.

    ``timm.create_model(NAME, img_size=SIZE)`` loads the tensors strictly but for its head. The file's metadata holds
    ``student`` (timm's name), ``view_size`` and ``patch_size``.
    """
    metadata = {
        "student": student.name,
        "view_size": str(student.img_size),
        "patch_size": str(student.patch_size),
        "format": "pt",
    }
    with atomic_file(path) as handle:
        handle.write(_with_sorted_metadata(save(student.export_state(), metadata=metadata)))


def _with_sorted_metadata(data: bytes) -> bytes:
    """The same file with its metadata in order: safetensors shuffles it, and equal students should be equal files."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8").ljust(size)
    return data[:8] + text + data[8 + size :]
