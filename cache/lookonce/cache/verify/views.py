"""Decodes every view that is stored as JPEG, and compares its pixels with the digest that is stored for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.containers import ObjectContent, container_of
from lookonce.cache.read.mapped_objects import bytes_of, map_file
from lookonce.cache.read.whole_views import decoded_patches, other_decoder
from lookonce.cache.verify.digests import in_threads
from lookonce.cache.verify.findings import Finding
from lookonce.cache.verify.shard_check import ShardCheck, ShardChecker
from lookonce.shared.printing import count_text
from lookonce.shared.views import pixel_digest
from lookonce.storage_schemas.arrays import JPEG, PIXEL_DIGEST
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt, StoredObject


def check_views(
    root: Path,
    manifest: Manifest,
    checkers: Sequence[ShardChecker],
    checks: Sequence[ShardCheck],
    damaged: Sequence[Finding],
    workers: int,
) -> list[Finding]:
    """Check the views of every shard whose objects are as their receipt says.

    Args:
        root: the cache folder.
        manifest: of a cache whose views are JPEGs.
        checkers: of its shards.
        checks: what each of them found.
        damaged: objects with another digest than in their receipt.
        workers: threads.

    Returns:
        At most two findings a shard: views that are no JPEGs, which is damage; and views that decode to other pixels
        here, which is no damage: their bytes are those that were written.
    """
    wrong = {finding.path for finding in damaged}
    todo = [
        (checker, check.receipt)
        for checker, check in zip(checkers, checks, strict=True)
        if check.receipt is not None and not check.findings and wrong.isdisjoint(_paths(check.receipt))
    ]

    def check(item: tuple[ShardChecker, Receipt]) -> list[Finding]:
        return _check_shard(root, manifest, *item)

    return [finding for found in in_threads(check, todo, workers) for finding in found]


def _paths(receipt: Receipt) -> set[str]:
    return {stored.path for stored in receipt.objects}


def _check_shard(root: Path, manifest: Manifest, checker: ShardChecker, receipt: Receipt) -> list[Finding]:
    unreadable, differing, problem = list[int](), list[int](), ""
    digests = dict(_values(root, manifest, receipt, PIXEL_DIGEST))
    for row, jpeg in _values(root, manifest, receipt, JPEG):
        try:
            found = pixel_digest(decoded_patches(jpeg.tobytes(), manifest.recipe))
        except ValueError as error:
            unreadable.append(row)
            problem = problem or str(error)
            continue
        if not np.array_equal(found, digests[row]):
            differing.append(row)
    path, findings = _object_with(manifest, receipt, JPEG).path, []
    if unreadable:
        what = f"{_views(unreadable)} cannot be decoded, although every byte is as its receipt lists: {problem}"
        findings.append(checker.damaged(path, JPEG, what))
    if differing:
        what = (
            f"{_views(differing)} decode to other pixels here than the teacher saw, although every byte is as its "
            f"receipt lists: {other_decoder({**manifest.created_with, **receipt.versions})}"
        )
        advice = "install that version here, or use the cache on a machine that has it"
        findings.append(replace(checker.damaged(path, JPEG, what), kind="not readable", advice=advice))
    return findings


def _views(rows: Sequence[int]) -> str:
    return f"{count_text(len(rows), 'view')} (the first: row {rows[0]})"


def _object_with(manifest: Manifest, receipt: Receipt, array: str) -> StoredObject:
    name = container_of(manifest).object_of(array)
    return next(stored for stored in receipt.objects if stored.array == name)


def _values(root: Path, manifest: Manifest, receipt: Receipt, array: str) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Row and value, uint8 (bytes,), of each sample of a shard."""
    stored = _object_with(manifest, receipt, array)
    data = bytes_of(map_file(root / stored.path, stored, check_digest=False))
    content = ObjectContent(data=data, stored=stored, receipt=receipt, manifest=manifest)
    places = container_of(manifest).places(content)[array]
    for position, (start, length) in enumerate(zip(places.starts.tolist(), places.lengths.tolist(), strict=True)):
        if start >= 0:
            yield receipt.first_sample + position, data[start : start + length]
