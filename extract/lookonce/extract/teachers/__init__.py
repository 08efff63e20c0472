"""Frozen teachers: one table of names, one adapter per library.

``table.py`` resolves a name to a spec, ``loading.py`` loads a spec and its weights as a teacher. Open ``teacher.py``
first: uint8 views in, block outputs and importance out. ``adapters/`` run the blocks of a library, one by one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lookonce.extract.teachers.blocks import resolve_blocks
    from lookonce.extract.teachers.loading import load_teacher
    from lookonce.extract.teachers.spec import TeacherSpec
    from lookonce.extract.teachers.table import known_teachers, resolve_teacher
    from lookonce.extract.teachers.targets import normalise_targets
    from lookonce.extract.teachers.teacher import Teacher, TeacherFeatures, TeacherOutput

__all__ = [
    "Teacher",
    "TeacherFeatures",
    "TeacherOutput",
    "TeacherSpec",
    "known_teachers",
    "load_teacher",
    "normalise_targets",
    "resolve_blocks",
    "resolve_teacher",
]

_MODULES = {
    "Teacher": "teacher",
    "TeacherFeatures": "teacher",
    "TeacherOutput": "teacher",
    "TeacherSpec": "spec",
    "known_teachers": "table",
    "load_teacher": "loading",
    "normalise_targets": "targets",
    "resolve_blocks": "blocks",
    "resolve_teacher": "table",
}
"""Name -> its module in this package."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
