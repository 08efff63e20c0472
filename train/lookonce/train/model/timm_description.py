"""Describes a student to timm: its ``pretrained_cfg``, and the ``config.json`` of a folder that timm loads."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lookonce.shared.errors import StorageError
from lookonce.shared.files.atomic import TEMPORARY_MARK, write_json
from lookonce.train.model.student import Student
from lookonce.weights.described import CONFIG, PRETRAINED_CFG

TIMM_WEIGHTS = "model.safetensors"
"""Name of the weights that timm expects, on the hub and in a folder."""
CROP_SHARE = 224 / 256
"""Side of an evaluation view divided by the shorter side of the resized image, see ``center_view``."""
_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)


def timm_description(
    student: Student, *, classes: Sequence[str] = (), model_args: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The ``config.json`` from which ``timm.create_model("local-dir:FOLDER")`` and ``"hf-hub:..."`` build the model.

    Args:
        student: the described model.
        classes: names of a classifier's classes, by label; empty for a student without a head.
        model_args: further arguments of ``timm.create_model``, such as ``global_pool``.
    """
    size, labels = [3, student.img_size, student.img_size], {"label_names": list(classes)} if classes else {}
    return {
        "architecture": student.name,
        "num_classes": len(classes),
        "num_features": student.dim,
        "global_pool": (model_args or {}).get("global_pool", "token"),
        **labels,
        "model_args": {"img_size": student.img_size, "global_pool": "token", **(model_args or {})},
        PRETRAINED_CFG: {
            "architecture": student.name,
            "tag": "lookonce",
            "input_size": size,
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": CROP_SHARE,
            "crop_mode": "center",
            **student.normalisation.document(),
            "num_classes": len(classes),
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def description_metadata(description: Mapping[str, Any]) -> dict[str, str]:
    """timm's ``pretrained_cfg`` as an entry of safetensors metadata."""
    return {PRETRAINED_CFG: json.dumps(description[PRETRAINED_CFG])}


def leave_timm_folder(file: Path, description: Mapping[str, Any]) -> Path:
    """Write the folder ``NAME/`` beside ``NAME.safetensors``: timm loads it, and it can be uploaded to a hub.

    It contains ``config.json`` and ``model.safetensors``, a hard link to the file (a copy if the file system has no
    links). It is a folder of its own because the run has a ``config.json`` already.

    Raises:
        StorageError: the operating system refused.
    """
    folder = file.with_suffix("")
    try:
        folder.mkdir(exist_ok=True)
        _link(file, folder / TIMM_WEIGHTS)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror}); make room, and run again") from error
    write_json(folder / CONFIG, description)
    return folder


def _link(file: Path, target: Path) -> None:
    if target.exists() and target.samefile(file):
        return
    temporary = target.with_name(f"{target.name}{TEMPORARY_MARK}{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(file, temporary)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(file, temporary)
    temporary.replace(target)
