"""Deletes caches that nobody has used for some time: first a plan that says why, then its execution."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from lookonce.catalogue.catalogue import Catalogue
from lookonce.catalogue.entry import CatalogueEntry
from lookonce.catalogue.pins import held_pins, last_pinned, remove_dead_pins
from lookonce.catalogue.query import CacheQuery, age
from lookonce.catalogue.removal import finish_removal, left_over, remove_cache
from lookonce.shared.errors import LookonceError
from lookonce.shared.printing import Result, bytes_text, count_text


@dataclass(frozen=True, kw_only=True)
class CleanUpLine:
    """What is done with one cache of the catalogue, or what a stopped removal has left of one."""

    cache: str
    bytes: int
    unused_days: int
    """Whole days since its last use."""
    delete: bool
    """Whether it is deleted."""
    reason: str
    """Why, or why not."""
    failure: str | None = None
    """Why it could not be deleted."""


@dataclass(frozen=True, kw_only=True)
class CleanUpSummary(Result):
    """A plan, or what became of it."""

    executed: bool
    """Whether caches were deleted, or only listed."""
    lines: tuple[CleanUpLine, ...]

    @property
    def freed(self) -> int:
        """Bytes of what is deleted."""
        return sum(line.bytes for line in self.lines if line.delete and line.failure is None)

    @property
    def exit_code(self) -> int:
        """1 if a cache that was to be deleted is still there."""
        return int(any(line.failure is not None for line in self.lines))

    def document(self) -> dict[str, Any]:
        """The summary as a JSON-compatible document."""
        return {"executed": self.executed, "freed": self.freed, "caches": [asdict(line) for line in self.lines]}

    def text(self) -> str:
        """A line per cache, and the sum."""
        lines = []
        for line in self.lines:
            word = "keep" if not line.delete else ("deleted" if self.executed else "delete")
            reason = line.reason if line.failure is None else f"NOT DELETED: {line.failure}"
            lines.append(f"{word:<8}{bytes_text(line.bytes):>8}  {line.cache}  {reason}")
        chosen = [line for line in self.lines if line.delete and line.failure is None]
        verb = "freed" if self.executed else "would be freed; run again with --delete to delete them"
        lines.append(f"{count_text(len(chosen), 'cache')}, {bytes_text(self.freed)} {verb}")
        return "\n".join(lines)


def clean_up(catalogue: Catalogue, query: CacheQuery, *, delete: bool, everyone: bool = False) -> CleanUpSummary:
    """List the caches of a catalogue that nobody needs, and delete them if told.

    A cache is kept if it is pinned, being written or used more recently than the query's ``unused_for``, if it belongs
    to another user, or if the query does not admit it for another reason (then it is not listed). Entries whose cache
    is gone are forgotten, and removals that were stopped are finished.

    Args:
        catalogue: where the caches are listed.
        query: which caches are looked at; its ``unused_for`` decides which of them are old.
        delete: whether to delete, or only to list.
        everyone: also delete caches of other users.

    Raises:
        AccessError: the catalogue cannot be read.
    """
    lines: list[CleanUpLine] = []
    entries = sorted(catalogue.entries(), key=lambda entry: entry.place)
    for entry in entries:
        for folder in left_over(Path(entry.place)):
            line = CleanUpLine(
                cache=str(folder), bytes=_size(folder), unused_days=0, delete=True, reason="left by a stopped removal"
            )
            lines.append(_done(line, lambda folder=folder: finish_removal(folder)) if delete else line)  # type: ignore[misc]
        if not _chosen(query).admits(entry):
            continue
        state = entry.state()
        if state in ("gone", "replaced"):
            if delete:
                catalogue.forget(entry)
            continue
        line = _judged(entry, query, everyone)
        if state == "present" and line.delete and delete:
            remove_dead_pins(Path(entry.place))
            line = _done(line, lambda entry=entry: remove_cache(Path(entry.place), catalogue=catalogue))  # type: ignore[misc]
        lines.append(line)
    return CleanUpSummary(executed=delete, lines=tuple(lines))


def _chosen(query: CacheQuery) -> CacheQuery:
    """The query without the age, which is a reason to keep a cache and not to leave it out of the list."""
    return replace(query, unused_for=None)


def _judged(entry: CatalogueEntry, query: CacheQuery, everyone: bool) -> CleanUpLine:
    unused = age(entry.used_at)
    delete, reason = False, ""
    try:
        pins = held_pins(Path(entry.place))
        unused = min(unused, timedelta(seconds=max(0.0, time.time() - last_pinned(Path(entry.place)))))
        owner = Path(entry.place).stat().st_uid
        if pins:
            reason = f"pinned by {', '.join(map(str, pins))}"
        elif query.unused_for is not None and unused < query.unused_for:
            reason = f"used {max(0, unused.days)} days ago"
        elif owner != os.getuid() and not everyone:
            reason = f"belongs to another user ({entry.user}); --everyone includes it"
        else:
            delete, reason = True, f"last used {max(0, unused.days)} days ago"
    except (LookonceError, OSError) as error:
        reason = f"cannot be read: {error}"
    return CleanUpLine(
        cache=entry.place, bytes=entry.bytes, unused_days=max(0, unused.days), delete=delete, reason=reason
    )


def _done(line: CleanUpLine, work: Callable[[], object]) -> CleanUpLine:
    try:
        work()
    except LookonceError as error:
        return replace(line, failure=str(error))
    return line


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
