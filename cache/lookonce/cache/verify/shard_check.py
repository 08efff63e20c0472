"""Checks one (seed, shard): its receipt, the sizes and indices of its objects, and on demand their digests."""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lookonce.cache.advice import REPAIR
from lookonce.cache.committed import receipt_mismatches
from lookonce.cache.containers import ObjectContent, container_of
from lookonce.cache.layout import CacheLayout, load_json
from lookonce.cache.read.mapped_objects import bytes_of, map_file
from lookonce.cache.verify.documents import form_problem, not_readable, reason
from lookonce.cache.verify.findings import Finding
from lookonce.shared.errors import AccessError, CacheError
from lookonce.shared.faults.os_errors import ABSENT
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt, StoredObject, parse_receipt, validate_receipt

WRITE_SHARD = "run extract-features again with the same arguments: it writes the shard"
DELETE_RECEIPT = "delete it, then run extract-features again with the same arguments: it writes the shard again"


@dataclass(frozen=True, kw_only=True)
class ShardCheck:
    """Result of the checks of one shard, without digests."""

    objects: int = 0
    """Number of checked objects."""
    bytes: int = 0
    """Bytes of the objects according to their receipt."""
    sound: tuple[StoredObject, ...] = ()
    """Objects without a finding, whose digests are worth computing."""
    findings: tuple[Finding, ...] = ()
    receipt: Receipt | None = None
    """The shard's receipt, if it is valid."""


class ShardChecker:
    """Checks one (seed, shard) against the manifest of its cache. Thread-safe.

    Args:
        layout: layout of the cache.
        manifest: its manifest.
        seed: augmentation seed.
        shard: shard number.
        object_problem: what is wrong with an object, or None, for objects that do not lie beside the documents; it may
            raise ``AccessError``.
    """

    def __init__(
        self,
        layout: CacheLayout,
        manifest: Manifest,
        seed: int,
        shard: int,
        *,
        object_problem: Callable[[StoredObject, Receipt], str | None] | None = None,
    ) -> None:
        self._problem = object_problem or self._object_problem
        self._layout, self._manifest = layout, manifest
        self.seed, self.shard = seed, shard
        self._container = container_of(manifest)
        self._exists = shard < manifest.shard_count
        self._rows = manifest.shard_rows(shard) if self._exists else range(0)
        self._receipt_path = layout.receipt_file(seed, shard).relative_to(layout.root).as_posix()

    def check(self) -> ShardCheck:
        """Check everything except digests of a shard that has a receipt."""
        if not self._exists:
            last = self._manifest.shard_count - 1
            problem = f"there is no shard {self.shard}: the last one is {last}"
            return ShardCheck(findings=(self._receipt_finding(problem, "delete it: it belongs to another cache"),))
        path = self._layout.receipt_file(self.seed, self.shard)
        try:
            document = load_json(path)
        except AccessError as error:
            return ShardCheck(findings=(self._not_readable(error, path, self._receipt_path),))
        except CacheError as error:
            return ShardCheck(findings=(self._receipt_finding(reason(error, path), DELETE_RECEIPT),))
        problems = [str(problem) for problem in validate_receipt(document)]
        receipt = None if problems else parse_receipt(document, self._receipt_path)
        if receipt is not None:
            try:
                changed = form_problem(path, document)
            except AccessError as error:
                return ShardCheck(findings=(self._not_readable(error, path, self._receipt_path),))
            problems = [*self._identity_problems(receipt), *([changed] if changed else [])]
        if receipt is None or problems:
            return ShardCheck(findings=tuple(self._receipt_finding(problem, DELETE_RECEIPT) for problem in problems))
        return self._check_objects(receipt)

    def missing(self) -> Finding:
        """The finding for a shard without a receipt."""
        return self._receipt_finding(
            "there is no receipt: the shard was not finished, or its receipt is lost", WRITE_SHARD
        )

    def damaged(self, path: str, array: str, problem: str) -> Finding:
        """The finding for an object whose content is wrong."""
        return self._object_finding(path, array, problem)

    def digest_mismatch(self, stored: StoredObject, found: str) -> Finding:
        """The finding for an object whose digest differs from its receipt."""
        problem = f"the digest of its bytes is {found}, its receipt lists {stored.digest}: it was changed or damaged"
        return self._object_finding(stored.path, stored.array, problem)

    def unreadable(self, stored: StoredObject, error: OSError) -> Finding:
        """The finding for an object that cannot be accessed."""
        if isinstance(error, ABSENT):
            return self._object_finding(stored.path, stored.array, "there is no such file")
        return self._not_readable(error, self._layout.root / stored.path, stored.path, stored.array)

    def object_finding(self, stored: StoredObject, problem: str | AccessError) -> Finding:
        """The finding for an object whose bytes are wrong, or that cannot be accessed."""
        if isinstance(problem, AccessError):
            return self._not_readable(problem, self._layout.root / stored.path, stored.path, stored.array)
        return self._object_finding(stored.path, stored.array, problem)

    def _identity_problems(self, receipt: Receipt) -> list[str]:
        differing = {"seed": (receipt.seed, self.seed), "shard": (receipt.shard, self.shard)}
        differing = {field: pair for field, pair in differing.items() if pair[0] != pair[1]}
        return [
            f"{field} is {found}, expected {wanted}: the receipt belongs to another cache or shard"
            for field, (found, wanted) in (differing or receipt_mismatches(receipt, self._manifest)).items()
        ]

    def _check_objects(self, receipt: Receipt) -> ShardCheck:
        findings: list[Finding] = []
        sound: list[StoredObject] = []
        checked = 0
        counts = collections.Counter(stored.array for stored in receipt.objects)
        paths = self._container.object_paths(self._manifest, self.seed, self.shard)
        findings.extend(
            self._receipt_finding(f"it lists an object {name!r} that is not part of the cache", DELETE_RECEIPT)
            for name in sorted(counts.keys() - paths.keys())
        )
        by_name = {stored.array: stored for stored in receipt.objects}
        for name, path in paths.items():
            if counts[name] != 1:
                problem = f"it lists {counts[name]} objects {name!r}, expected 1"
                findings.append(self._receipt_finding(problem, DELETE_RECEIPT, name))
                continue
            stored = by_name[name]
            if stored.path != path:
                problem = f"it lists the object {stored.path}, expected {path}"
                findings.append(self._receipt_finding(problem, DELETE_RECEIPT, name))
                continue
            checked += 1
            try:
                found = self._problem(stored, receipt)
            except (AccessError, OSError) as error:
                findings.append(self._not_readable(error, self._layout.root / path, path, name))
                continue
            if found is None:
                sound.append(stored)
            else:
                findings.append(self._object_finding(stored.path, name, found))
        return ShardCheck(
            objects=checked, bytes=receipt.content_bytes, sound=tuple(sound), findings=tuple(findings), receipt=receipt
        )

    def _object_problem(self, stored: StoredObject, receipt: Receipt) -> str | None:
        path = self._layout.root / stored.path
        try:
            size = path.stat().st_size
        except ABSENT:
            return "there is no such file"
        if size != stored.bytes:
            return f"{size} bytes, its receipt lists {stored.bytes}: it is truncated or was replaced"
        if size == 0:  # an empty file cannot be mapped
            return "it is empty"
        try:
            memory = map_file(self._layout.root / stored.path, stored, check_digest=False)
            content = ObjectContent(data=bytes_of(memory), stored=stored, receipt=receipt, manifest=self._manifest)
            self._container.check(content)
        except CacheError as error:
            return str(error).removeprefix(f"{stored.path}: ").removeprefix(f"{path}: ").removesuffix(f"; {REPAIR}")
        return None

    def _receipt_finding(self, problem: str, advice: str, array: str | None = None) -> Finding:
        return self._finding(self._receipt_path, array, problem, advice)

    def _object_finding(self, path: str, array: str, problem: str) -> Finding:
        return self._finding(path, array, problem, f"delete {self._receipt_path}, then {WRITE_SHARD}")

    def _not_readable(self, error: AccessError | OSError, path: Path, name: str, array: str | None = None) -> Finding:
        rows = (self._rows.start, self._rows.stop - 1) if self._rows else None
        return not_readable(error, path, name, array=array, seed=self.seed, shard=self.shard, rows=rows)

    def _finding(self, path: str, array: str | None, problem: str, advice: str) -> Finding:
        rows = (self._rows.start, self._rows.stop - 1) if self._rows else None
        return Finding(
            path=path, array=array, seed=self.seed, shard=self.shard, rows=rows, problem=problem, advice=advice
        )
