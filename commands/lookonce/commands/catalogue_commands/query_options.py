"""Flags that choose caches of the catalogue, for ``list``, ``find`` and ``gc``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from lookonce.catalogue.query import CacheQuery
from lookonce.commands.command import CommonOptions
from lookonce.shared.config_values import Count, validate
from lookonce.shared.errors import UsageError

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@dataclass(frozen=True, kw_only=True)
class QueryOptions(CommonOptions):
    """Conditions on a cache; all of them must hold."""

    teacher: str | None = None
    """Only caches of this teacher: clip-b16, deit-tiny ..., as for extract-features."""
    view_size: Count | None = None
    """Only caches of views of this side in pixels."""
    precision: str | None = None
    """Only caches of this precision: fp16, int8, klt0.5 ..."""
    name: str | None = None
    """Only caches whose folder has this name."""
    fingerprint: str | None = None
    """Only caches whose fingerprint begins with these digits."""
    min_seeds: Count | None = None
    """Only caches with so many complete augmentation seeds."""
    complete: bool = False
    """Only caches whose seeds are all complete."""

    def __post_init__(self) -> None:
        validate(self)
        if self.precision is not None:
            from lookonce.storage_schemas.precision import get_precision

            get_precision(self.precision)

    def query(self, unused_for: timedelta | None = None) -> CacheQuery:
        """The conditions as a query.

        Raises:
            UsageError: the teacher's name is unknown.
        """
        return CacheQuery(
            teacher=None if self.teacher is None else _recipe_name(self.teacher),
            view_size=self.view_size,
            precision=self.precision,
            name=self.name,
            fingerprint=self.fingerprint,
            min_seeds=self.min_seeds,
            complete=self.complete,
            unused_for=unused_for,
        )


def parse_age(flag: str, text: str) -> timedelta:
    """Read a length of time: a number with h, d or w.

    Raises:
        UsageError: it is something else.

    >>> parse_age("--older-than", "30d")
    datetime.timedelta(days=30)
    """
    match = re.fullmatch(r"(\d{1,5})([hdw])", text)
    if match is None:
        raise UsageError(f"{flag} {text}: expected a number with h, d or w, such as 12h, 30d or 8w")
    return int(match[1]) * _UNITS[match[2]]


def _recipe_name(teacher: str) -> str:
    from lookonce.extract.teachers.table import recipe_name

    return recipe_name(teacher)
