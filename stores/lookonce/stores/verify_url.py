"""Verifies a cache at a URL: documents and sizes, and on demand the digest of every object, which is read for that."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lookonce.cache.layout import CacheLayout
from lookonce.cache.verify.documents import check_manifest, check_metadata
from lookonce.cache.verify.findings import Finding, Note, VerifyReport
from lookonce.cache.verify.shard_check import ShardCheck, ShardChecker
from lookonce.shared.errors import StoreError
from lookonce.storage_schemas.manifest import FILE_NAME, Manifest
from lookonce.storage_schemas.receipt import Receipt, StoredObject
from lookonce.stores.claims import FOLDER
from lookonce.stores.mirror import mirror_manifest, mirror_receipts
from lookonce.stores.push import DEFAULT_PATIENCE, DEFAULT_WORKERS
from lookonce.stores.transport.open_store import open_store
from lookonce.stores.transport.transfer import Progress, Transfer
from lookonce.stores.transport.urls import parse_url

ADVICE = "push the cache again from a sound copy"


def verify_url(
    url: str,
    *,
    full: bool = False,
    workers: int = DEFAULT_WORKERS,
    patience: float = DEFAULT_PATIENCE,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check a cache at a URL against its own documents.

    Args:
        url: as typed.
        full: also read every object and check its digest; nothing is kept.
        workers: objects that are read at the same time.
        patience: seconds without progress after which failing requests are no longer repeated.
        progress: called with digested bytes.

    Raises:
        StoreError: the store does not answer, or refuses the manifest.
    """
    transfer = Transfer(
        open_store(parse_url(url, "CACHE"), patience), workers=workers, patience=patience, progress=progress
    )
    with tempfile.TemporaryDirectory(prefix="lookonce-") as name:
        return _Verification(transfer, Path(name), full=full).run()


class _Verification:
    def __init__(self, transfer: Transfer, folder: Path, *, full: bool) -> None:
        self._transfer, self._layout, self._full = transfer, CacheLayout(folder), full

    def run(self) -> VerifyReport:
        if not mirror_manifest(self._transfer, self._layout.root):
            problem = "there is no manifest, so this is no lookonce cache, or a push of it has not ended"
            return self._report([Finding(path=FILE_NAME, problem=problem, advice="check the URL, or push again")])
        manifest, findings = check_manifest(self._layout)
        if manifest is None:
            return self._report(findings)
        seeds = mirror_receipts(self._transfer, self._layout.root, manifest, metadata=True)
        if not seeds:
            findings.append(Finding(path="receipts", problem="the cache has no seed", advice="push one"))
        for seed in seeds:
            findings += check_metadata(self._layout, manifest, seed)
        return self._shards(manifest, seeds, findings)

    def _shards(self, manifest: Manifest, seeds: Sequence[int], findings: list[Finding]) -> VerifyReport:
        problem = self._size_problem(seeds)
        checkers, missing = list[ShardChecker](), list[Finding]()
        for seed in seeds:
            for shard in range(manifest.shard_count):
                checker = ShardChecker(self._layout, manifest, seed, shard, object_problem=problem)
                if self._layout.receipt_file(seed, shard).exists():
                    checkers.append(checker)
                else:
                    missing.append(checker.missing())
        checks = self._transfer.each(ShardChecker.check, checkers)
        found = [*missing, *(finding for check in checks for finding in check.findings)]
        if self._full:
            found += self._digests(checkers, checks)
        found.sort(key=lambda finding: (finding.seed or 0, finding.shard or 0))
        return self._report([*findings, *found], seeds, checks)

    def _size_problem(self, seeds: Sequence[int]) -> Callable[[StoredObject, Receipt], str | None]:
        """What is wrong with an object as far as its size tells."""
        store, ask = self._transfer.store, self._transfer.ask
        sizes: Mapping[str, int] = {}
        if store.lists:
            listed = self._transfer.each(lambda seed: ask(lambda: store.sizes(f"seed-{seed:04d}")), seeds)
            sizes = {path: size for part in listed for path, size in part.items()}

        def problem(stored: StoredObject, _: Receipt) -> str | None:
            size = sizes.get(stored.path)
            if not store.lists and (facts := ask(lambda: store.head(stored.path))) is not None:
                size = facts.bytes
            if size is None:
                return "there is no such object"
            if size != stored.bytes:
                return f"{size} bytes, its receipt lists {stored.bytes}: it is truncated or was replaced"
            return None

        return problem

    def _digests(self, checkers: Sequence[ShardChecker], checks: Sequence[ShardCheck]) -> list[Finding]:
        todo = [(checker, stored) for checker, check in zip(checkers, checks, strict=True) for stored in check.sound]
        self._transfer.expect(sum(stored.bytes for _, stored in todo))

        def digest(item: tuple[ShardChecker, StoredObject]) -> Finding | None:
            checker, stored = item
            try:
                problem = self._transfer.receive(stored.path, stored.bytes, stored.digest, None)
            except StoreError as error:
                if error.may_pass:  # nothing moves any more: the others would wait as long
                    raise
                return checker.object_finding(stored, error)
            return None if problem is None else checker.object_finding(stored, problem)

        return [finding for finding in self._transfer.each(digest, todo) if finding is not None]

    def _report(
        self, findings: Sequence[Finding], seeds: Sequence[int] = (), checks: Sequence[ShardCheck] = ()
    ) -> VerifyReport:
        return VerifyReport(
            cache=self._transfer.store.url,
            findings=tuple(
                dataclasses.replace(one, advice=ADVICE) if one.kind == "damaged" and seeds else one for one in findings
            ),
            notes=self._notes(),
            seeds=tuple(seeds),
            shards=len(checks),
            objects=sum(check.objects for check in checks),
            bytes=sum(check.bytes for check in checks),
            digested=self._full,
        )

    def _notes(self) -> tuple[Note, ...]:
        store = self._transfer.store
        claims = self._transfer.ask(lambda: store.sizes(FOLDER)) if store.lists else {}
        remark = "a claim of a push that is under way or was interrupted"
        return tuple(Note(path=path, remark=remark) for path in sorted(claims))
