"""Receipt: written last, by rename; a shard counts only when its receipt is there.

Receipts make resume, verify, repair, merge and progress one mechanism. They hold no time and no host name, so that
the same extraction writes the same receipts anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lookonce.storage_schemas.problems import Problem, document_problems, raise_problems, sealed

SCHEMA = "lookonce-receipt"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Hole:
    """A listed sample that is not in the shard, and is never trained on."""

    sample: int
    """Row of the sample."""
    key: str
    label: int
    """Index in the manifest's classes, -1 without label."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One file of a shard."""

    array: str
    path: str
    """POSIX path relative to the cache."""
    bytes: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What one (seed, shard) holds."""

    fingerprint: str
    encoding: str
    """Digest of the encoding the targets were written with."""
    seed: int
    shard: int
    first_sample: int
    samples: int
    """Listed samples of the shard, holes included."""
    holes: tuple[Hole, ...]
    objects: tuple[StoredObject, ...]
    statistics: Mapping[str, float]
    """Sanity signals of the shard: feature norm, share of saturated values, importance entropy ..."""
    versions: Mapping[str, str]
    """Versions of the libraries that decide the bytes."""

    def document(self) -> dict[str, Any]:
        """The receipt as a JSON-compatible document."""
        plain = asdict(self)
        plain["holes"] = [asdict(hole) for hole in self.holes]
        plain["objects"] = [asdict(stored) for stored in self.objects]
        plain["statistics"] = dict(self.statistics)
        plain["versions"] = dict(self.versions)
        return sealed({"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **plain})

    @property
    def content_bytes(self) -> int:
        """Bytes of all objects."""
        return sum(stored.bytes for stored in self.objects)


def validate_receipt(document: Any) -> list[Problem]:
    """All problems of a receipt document; an empty list when it is valid."""
    problems, readable = document_problems(document, SCHEMA, SCHEMA_VERSION, "receipt-v1.json")
    if not readable:
        return problems
    last = document["first_sample"] + document["samples"]
    for position, hole in enumerate(document["holes"]):
        if not document["first_sample"] <= hole["sample"] < last:
            message = f"row {hole['sample']} lies outside the shard's rows {document['first_sample']}..{last - 1}"
            problems.append(Problem(loc=("holes", position, "sample"), message=message, kind="inconsistent"))
    for position, stored in enumerate(document["objects"]):
        if stored["path"].startswith("/") or ".." in stored["path"].split("/"):
            message = f"{stored['path']!r} leaves the cache folder"
            problems.append(Problem(loc=("objects", position, "path"), message=message, kind="value"))
        if "\0" in stored["path"]:
            message = f"{stored['path']!r} holds a zero byte, which no path can"
            problems.append(Problem(loc=("objects", position, "path"), message=message, kind="value"))
    return problems


def parse_receipt(document: Any, where: str) -> Receipt:
    """Read a receipt.

    Args:
        document: decoded JSON.
        where: the file, for messages.

    Raises:
        SchemaError: the document is not a valid receipt; the message lists all problems.
    """
    raise_problems(validate_receipt(document), where)
    fields = {key: value for key, value in document.items() if key not in ("schema", "schema_version", "digest")}
    fields["holes"] = tuple(Hole(**hole) for hole in document["holes"])
    fields["objects"] = tuple(StoredObject(**stored) for stored in document["objects"])
    return Receipt(**fields)
