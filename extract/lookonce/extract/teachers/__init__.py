"""Frozen teachers: one table of names, one adapter a library."""

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
