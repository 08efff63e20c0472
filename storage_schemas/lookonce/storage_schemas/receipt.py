"""Receipt: the last file of a shard, written by rename. A shard without a receipt does not count.

Resume, verify, repair, merge and progress all rely on receipts. A receipt contains no time and no host name, so the
same extraction writes the same receipts on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypedDict, cast

from lookonce.shared.errors import SchemaProblem
from lookonce.storage_schemas.problems import document_problems, raise_problems, sealed

SCHEMA = "lookonce-receipt"
SCHEMA_VERSION = 1


class HoleDocument(TypedDict):
    """``Hole`` as JSON."""

    sample: int
    key: str
    label: int
    reason: str


class StoredObjectDocument(TypedDict):
    """``StoredObject`` as JSON."""

    array: str
    path: str
    bytes: int
    digest: str


class ReceiptDocument(TypedDict):
    """``Receipt`` as JSON."""

    schema: str
    schema_version: int
    fingerprint: str
    encoding: str
    seed: int
    shard: int
    first_sample: int
    samples: int
    holes: list[HoleDocument]
    objects: list[StoredObjectDocument]
    statistics: Mapping[str, float]
    versions: Mapping[str, str]
    digest: str


@dataclass(frozen=True, kw_only=True)
class Hole:
    """A listed sample that the shard does not contain; training skips it."""

    sample: int
    """Row of the sample."""
    key: str
    label: int
    """Index into the manifest's classes; -1 without a label."""
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
    """Content of one shard of one seed."""

    fingerprint: str
    encoding: str
    """Digest of the encoding of the targets."""
    seed: int
    shard: int
    first_sample: int
    samples: int
    """Number of listed samples of the shard, holes included."""
    holes: tuple[Hole, ...]
    objects: tuple[StoredObject, ...]
    statistics: Mapping[str, float]
    """Sanity signals of the shard, such as feature norm, share of saturated values and importance entropy."""
    versions: Mapping[str, str]
    """Versions of the libraries that determine the bytes."""

    def document(self) -> ReceiptDocument:
        """The receipt as a JSON-compatible document."""
        plain = asdict(self)
        plain["holes"] = [asdict(hole) for hole in self.holes]
        plain["objects"] = [asdict(stored) for stored in self.objects]
        plain["statistics"] = dict(self.statistics)
        plain["versions"] = dict(self.versions)
        return cast("ReceiptDocument", sealed({"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **plain}))

    @property
    def content_bytes(self) -> int:
        """Total bytes of all objects."""
        return sum(stored.bytes for stored in self.objects)


def validate_receipt(document: Any) -> list[SchemaProblem]:
    """All problems of a decoded receipt; empty if it is valid."""
    problems, readable = document_problems(document, SCHEMA, {SCHEMA_VERSION: "receipt-v1.json"})
    if not readable:
        return problems
    last = document["first_sample"] + document["samples"]
    for position, hole in enumerate(document["holes"]):
        if not document["first_sample"] <= hole["sample"] < last:
            message = f"expected a row of the shard, {document['first_sample']}..{last - 1}, found {hole['sample']}"
            problems.append(SchemaProblem(loc=("holes", position, "sample"), message=message, kind="inconsistent"))
    for position, stored in enumerate(document["objects"]):
        if stored["path"].startswith("/") or ".." in stored["path"].split("/"):
            message = f"expected a path inside the cache folder, found {stored['path']!r}"
            problems.append(SchemaProblem(loc=("objects", position, "path"), message=message, kind="value"))
        if "\0" in stored["path"]:
            message = f"expected a path, found {stored['path']!r}, which contains a zero byte"
            problems.append(SchemaProblem(loc=("objects", position, "path"), message=message, kind="value"))
    return problems


def parse_receipt(document: Any, where: str) -> Receipt:
    """Read a receipt.

    Args:
        document: decoded JSON.
        where: name of the file, for messages.

    Raises:
        SchemaError: the document is not a valid receipt; ``problems`` of the error are all problems.
    """
    raise_problems(validate_receipt(document), where)
    fields = {key: value for key, value in document.items() if key not in ("schema", "schema_version", "digest")}
    fields["holes"] = tuple(Hole(**hole) for hole in document["holes"])
    fields["objects"] = tuple(StoredObject(**stored) for stored in document["objects"])
    return Receipt(**fields)
