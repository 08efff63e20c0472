"""What a verification found: each bad thing with its file, array, shard and samples, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from lookonce.shared.printing import Result, count_text

Kind = Literal["damaged", "not readable"]
"""Bytes that are missing or wrong; or bytes that the operating system does not give out, which may be sound."""

EXIT_DAMAGED, EXIT_NOT_READABLE = 1, 3

MOST_NOTES = 20
"""Notes that the text lists; ``--json`` has all."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One bad thing in a cache."""

    path: str
    """The file, POSIX path relative to the cache."""
    array: str | None = None
    """The array it belongs to; None for documents about all arrays."""
    seed: int | None = None
    shard: int | None = None
    rows: tuple[int, int] | None = None
    """First and last sample row concerned; None when it concerns no samples or all."""
    problem: str
    """What was found, and what was expected."""
    advice: str
    """What to do."""
    kind: Kind = "damaged"

    def __str__(self) -> str:
        parts = [
            f"array {self.array}" if self.array is not None else "",
            f"seed {self.seed}" if self.seed is not None else "",
            f"shard {self.shard}" if self.shard is not None else "",
            f"rows {self.rows[0]}-{self.rows[1]}" if self.rows is not None else "",
        ]
        place = ", ".join(part for part in parts if part)
        return f"{self.path}{f' ({place})' if place else ''}: {self.problem}; {self.advice}"

    def document(self) -> dict[str, Any]:
        """The finding as a JSON-compatible document."""
        return {**asdict(self), "rows": None if self.rows is None else list(self.rows)}


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something that lies in the cache without belonging to it; no failure, as nothing without a receipt counts."""

    path: str
    """POSIX path relative to the cache."""
    remark: str

    def __str__(self) -> str:
        return f"{self.path}: {self.remark}"


@dataclass(frozen=True, kw_only=True)
class VerifyReport(Result):
    """What one verification checked and found."""

    cache: str
    """The cache folder."""

    findings: tuple[Finding, ...]
    notes: tuple[Note, ...]
    seeds: tuple[int, ...]
    """Seeds that were looked at."""
    shards: int
    """Shards with a receipt that were checked."""
    objects: int
    """Objects that were checked."""
    bytes: int
    """Bytes of the objects that were checked."""
    digested: bool
    """Whether all these bytes were digested; otherwise only sizes and indices were checked."""

    @property
    def whole(self) -> bool:
        """Whether nothing bad was found, and everything could be read."""
        return not self.findings

    def count(self, kind: Kind) -> int:
        """Findings of a kind."""
        return sum(finding.kind == kind for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """The report as a JSON-compatible document."""
        return {
            "cache": self.cache,
            "whole": self.whole,
            "damaged": self.count("damaged"),
            "not_readable": self.count("not readable"),
            "digested": self.digested,
            "seeds": list(self.seeds),
            "shards": self.shards,
            "objects": self.objects,
            "bytes": self.bytes,
            "findings": [finding.document() for finding in self.findings],
            "notes": [asdict(note) for note in self.notes],
            "exit_code": self.exit_code,
        }

    @property
    def exit_code(self) -> int:
        """0 when nothing is wrong, 1 when something is damaged, 3 when nothing is but something cannot be read."""
        if self.whole:
            return 0
        return EXIT_DAMAGED if self.count("damaged") else EXIT_NOT_READABLE

    def text(self) -> str:
        """A line for each finding and note, then the verdict."""
        lines = [str(finding) for finding in self.findings]
        lines += [f"note: {note}" for note in self.notes[:MOST_NOTES]]
        if len(self.notes) > MOST_NOTES:
            more = len(self.notes) - MOST_NOTES
            lines.append(f"note: {more} more files do not belong to the cache (--json names them)")
        how = "every byte hashed" if self.digested else "documents, sizes and indices; --full also hashes the bytes"
        damaged, not_readable = self.count("damaged"), self.count("not readable")
        found = [count_text(damaged, "problem")] if damaged else []
        found += [f"{count_text(not_readable, 'file')} not readable, which may be sound"] if not_readable else []
        checked = f"{self.shards} shards, {self.objects} objects, {self.bytes / 1e6:.1f} MB ({how})"
        return "\n".join([*lines, f"{self.cache}: {'; '.join(found) or 'no problems'}; checked {checked}"])
