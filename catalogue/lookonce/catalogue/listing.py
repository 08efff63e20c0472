"""The answer of ``feature-cache list``: caches of the catalogue that fit a query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lookonce.catalogue.catalogue import Catalogue
from lookonce.catalogue.entry import CatalogueEntry, State
from lookonce.catalogue.query import CacheQuery
from lookonce.shared.printing import Result, bytes_text, count_text


@dataclass(frozen=True, kw_only=True)
class CacheListing(Result):
    """Caches by teacher, view size and place."""

    folder: str
    """Folder of the catalogue."""
    caches: tuple[tuple[CatalogueEntry, State], ...]

    def document(self) -> dict[str, Any]:
        """The listing as a JSON-compatible document."""
        caches = [{**entry.document(), "state": state} for entry, state in self.caches]
        return {"catalogue": self.folder, "caches": caches}

    def text(self) -> str:
        """A table with a line per cache."""
        heads = ("name", "teacher", "view", "stored as", "images", "seeds", "size", "used", "place")
        rows = [_row(entry, state) for entry, state in self.caches]
        widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [heads, *rows]
        ]
        gone = sum(state != "present" for _, state in self.caches)
        counted = count_text(len(rows), "cache") + (f", {gone:,} of them not there now" if gone else "")
        return "\n".join([*(lines if rows else []), f"{counted}; catalogue {self.folder}"])


@dataclass(frozen=True, kw_only=True)
class FoundCaches(Result):
    """The answer of ``feature-cache find``: paths alone, for scripts."""

    caches: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """1 if there is none."""
        return int(not self.caches)

    def document(self) -> dict[str, Any]:
        """The paths as a JSON-compatible document."""
        return {"caches": list(self.caches)}

    def text(self) -> str:
        """A path per line."""
        return "\n".join(self.caches)


def list_caches(catalogue: Catalogue, query: CacheQuery) -> CacheListing:
    """The entries that fit a query, and what is at their places now.

    Raises:
        AccessError: the catalogue cannot be read.
    """
    chosen = [entry for entry in catalogue.entries() if query.admits(entry)]
    chosen.sort(key=lambda entry: (entry.teacher, entry.view_size, entry.place))
    return CacheListing(folder=str(catalogue.folder), caches=tuple((entry, entry.state()) for entry in chosen))


def find_caches(catalogue: Catalogue, query: CacheQuery) -> FoundCaches:
    """Places of the caches that fit a query and are there, most complete seeds first.

    Raises:
        AccessError: the catalogue cannot be read.
    """
    chosen = [entry for entry in catalogue.entries() if query.admits(entry)]
    chosen.sort(key=lambda entry: (-len(entry.complete_seeds), entry.place))
    return FoundCaches(caches=tuple(entry.place for entry in chosen if entry.state() == "present"))


def _row(entry: CatalogueEntry, state: State) -> tuple[str, ...]:
    stored = entry.precision if entry.tokens == "all" else f"{entry.precision}, {entry.tokens}"
    place = entry.place if state == "present" else f"{entry.place} ({_STATES[state]})"
    return (
        entry.name,
        entry.teacher,
        f"{entry.view_size} px",
        stored if entry.pixels else f"{stored}, no pixels",
        f"{entry.samples:,}",
        seeds_text(entry),
        bytes_text(entry.bytes),
        entry.used_at[:10],
        place,
    )


_STATES: dict[State, str] = {
    "gone": "GONE",
    "replaced": "REPLACED by another cache",
    "unreadable": "access denied",
}


def seeds_text(entry: CatalogueEntry) -> str:
    """Complete seeds as ranges, and the number of the others.

    >>> from types import SimpleNamespace
    >>> seeds_text(SimpleNamespace(complete_seeds=(0, 1, 2, 5), seeds={0: 2, 1: 2, 2: 2, 5: 2, 6: 1}))
    '0-2,5 (+1 incomplete)'
    """
    ranges: list[list[int]] = []
    for seed in entry.complete_seeds:
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
    incomplete = len(entry.seeds) - len(entry.complete_seeds)
    return (text or "none") + (f" (+{incomplete} incomplete)" if incomplete else "")
