"""What ``feature-cache list``, ``find`` and ``gc`` choose by."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lookonce.catalogue.entry import CatalogueEntry


@dataclass(frozen=True, kw_only=True)
class CacheQuery:
    """Conditions on an entry; those that are None hold for all."""

    teacher: str | None = None
    """Name of the teacher in the recipe."""
    view_size: int | None = None
    precision: str | None = None
    name: str | None = None
    """Name of the cache's folder."""
    fingerprint: str | None = None
    """First digits of the fingerprint."""
    min_seeds: int | None = None
    """Fewest complete augmentation seeds."""
    complete: bool = False
    """All seeds are complete."""
    unused_for: timedelta | None = None
    """Least time since the last use."""

    def admits(self, entry: CatalogueEntry) -> bool:
        """Whether all conditions hold for an entry."""
        return (
            self.teacher in (None, entry.teacher)
            and self.view_size in (None, entry.view_size)
            and self.precision in (None, entry.precision)
            and self.name in (None, entry.name)
            and (self.fingerprint is None or entry.begins_with(self.fingerprint))
            and (self.min_seeds is None or len(entry.complete_seeds) >= self.min_seeds)
            and (entry.complete or not self.complete)
            and (self.unused_for is None or age(entry.used_at) >= self.unused_for)
        )


def age(moment: str) -> timedelta:
    """Time since a moment of an entry; zero for one that cannot be read, so that nothing is deleted for its age."""
    try:
        return datetime.now(UTC) - datetime.fromisoformat(moment)
    except (TypeError, ValueError):
        return timedelta()
