"""Verifies a cache: all problems on disk become findings, none raises an error.

The quick check reads documents, sizes and indices, in seconds per terabyte. The full check also computes all digests,
and decodes views that are stored as JPEG.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lookonce.cache.layout import CacheLayout
from lookonce.cache.verify.digests import Progress, check_digests, in_threads
from lookonce.cache.verify.documents import check_manifest, check_metadata
from lookonce.cache.verify.findings import Finding, VerifyReport
from lookonce.cache.verify.shard_check import ShardChecker
from lookonce.cache.verify.strays import stray_notes
from lookonce.cache.verify.views import check_views
from lookonce.shared.errors import UsageError
from lookonce.storage_schemas.manifest import Manifest


def verify_cache(
    root: Path,
    *,
    seeds: Sequence[int] | None = None,
    full: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check a cache against its own documents.

    Args:
        root: the cache folder.
        seeds: seeds to check; None for every seed with a folder.
        full: also check the digest of every object, and decode every view that is stored as JPEG.
        workers: threads, at least 1.
        progress: called with digested bytes.

    Returns:
        A report; its findings are ordered by seed and shard.

    Raises:
        UsageError: ``workers`` is below 1.
    """
    if workers < 1:
        raise UsageError(f"workers: expected at least 1, found {workers}")
    layout = CacheLayout(root)
    manifest, findings = check_manifest(layout)
    if manifest is None:
        return VerifyReport(
            cache=str(root),
            findings=tuple(findings),
            notes=(),
            seeds=(),
            shards=0,
            objects=0,
            bytes=0,
            digested=full,
        )
    chosen = tuple(dict.fromkeys(seeds)) if seeds is not None else _seeds_on_disk(layout)
    if not chosen:
        problem, advice = "the cache has no seed", "run extract-features again with the same arguments"
        findings.append(Finding(path="receipts", problem=problem, advice=advice))
    for seed in chosen:
        findings += check_metadata(layout, manifest, seed)
    checkers, missing = _checkers(layout, manifest, chosen)
    checks = list(in_threads(ShardChecker.check, checkers, workers))
    digests = check_digests(root, checkers, checks, workers, progress) if full else []
    if full and manifest.pixels == "jpeg":
        digests += check_views(root, manifest, checkers, checks, digests, workers)
    shard_findings = [*missing, *(finding for check in checks for finding in check.findings), *digests]
    place = {seed: position for position, seed in enumerate(chosen)}
    shard_findings.sort(key=lambda finding: (place[finding.seed or 0], finding.shard or 0))
    return VerifyReport(
        cache=str(root),
        findings=(*findings, *shard_findings),
        notes=tuple(stray_notes(layout, manifest, chosen)),
        seeds=chosen,
        shards=len(checks),
        objects=sum(check.objects for check in checks),
        bytes=sum(check.bytes for check in checks),
        digested=full,
    )


def _seeds_on_disk(layout: CacheLayout) -> tuple[int, ...]:
    return tuple(sorted({*layout.seeds(), *layout.seed_folders()}))


def _checkers(
    layout: CacheLayout, manifest: Manifest, seeds: Sequence[int]
) -> tuple[list[ShardChecker], list[Finding]]:
    """A checker for each shard with a receipt, and a finding for each shard without one."""
    checkers, missing = [], []
    for seed in seeds:
        receipted = layout.receipted_shards(seed)
        checkers += [ShardChecker(layout, manifest, seed, shard) for shard in receipted]
        absent = sorted(set(range(manifest.shard_count)) - set(receipted))
        missing += [ShardChecker(layout, manifest, seed, shard).missing() for shard in absent]
    return checkers, missing
