"""What a verification found: each bad thing with its file, array, shard and samples, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["damaged", "not readable"]
"""Bytes that are missing or wrong; or bytes that the operating system does not give out, which may be sound."""


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

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Finding:
        """The inverse of ``document``."""
        rows = document["rows"]
        return cls(**{**document, "rows": None if rows is None else (rows[0], rows[1])})


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something that lies in the cache without belonging to it; no failure, as nothing without a receipt counts."""

    path: str
    """POSIX path relative to the cache."""
    remark: str

    def __str__(self) -> str:
        return f"{self.path}: {self.remark}"


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """All that one verification found and looked at."""

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
        }
