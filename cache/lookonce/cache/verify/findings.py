"""Results of a verification: each problem with its file, array, shard, rows and advice."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from lookonce.shared.printing import Result, count_text

FindingKind = Literal["damaged", "not readable"]
"""Bytes are missing or wrong; or a file cannot be accessed, but may be sound."""

EXIT_DAMAGED, EXIT_NOT_READABLE = 1, 3

MOST_NOTES = 20
"""Number of notes that the text lists; ``--json`` lists all."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One problem of a cache."""

    path: str
    """The file, POSIX path relative to the cache."""
    array: str | None = None
    """Array of the file; None for documents about all arrays."""
    seed: int | None = None
    shard: int | None = None
    rows: tuple[int, int] | None = None
    """First and last affected row; None if no row or all rows are affected."""
    problem: str
    """What was found and what was expected."""
    advice: str
    """What to do."""
    kind: FindingKind = "damaged"

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
    """A file in the cache folder that is not part of the cache. It is no failure: only files with receipts count."""

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
    """Checked seeds."""
    shards: int
    """Number of checked shards with a receipt."""
    objects: int
    """Number of checked objects."""
    bytes: int
    """Bytes of the checked objects."""
    digested: bool
    """Whether their digests were checked, or only sizes and indices."""

    @property
    def whole(self) -> bool:
        """Whether there are no findings: no problem was found, and everything could be read."""
        return not self.findings

    def count(self, kind: FindingKind) -> int:
        """Number of findings of a kind."""
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
