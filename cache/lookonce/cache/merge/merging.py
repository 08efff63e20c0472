"""Joins caches of one recipe: seeds or shards that several machines have extracted become one cache.

Shards are copied byte for byte with their receipts, and every byte is compared with its receipt on the way. A stopped
merge resumes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookonce.cache.advice import REPAIR
from lookonce.cache.committed import is_committed
from lookonce.cache.layout import CacheLayout
from lookonce.cache.verify.digests import in_threads
from lookonce.cache.write.create import (
    check_same_recipe,
    create_cache,
    exclusive_writer,
    existing_manifest,
    prepare_seed,
    remove_temporary_files,
)
from lookonce.shared.canonical import DIGEST_PREFIX
from lookonce.shared.errors import CacheError, IntegrityError, StorageError, UsageError
from lookonce.shared.faults.os_errors import access_error
from lookonce.shared.files.atomic import atomic_file, write_bytes
from lookonce.shared.printing import Result, bytes_text, count_text
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.receipt import Receipt, StoredObject

Progress = Callable[[int, int], None]
"""Called with the number of shards that are done and the total number."""

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class MergeSummary(Result):
    """Result of a merge."""

    cache: str
    fingerprint: str
    shards: dict[str, int]
    """Shards that were copied from each cache by this run."""
    bytes: int
    """Bytes that were copied."""
    twice: int
    """Shards that several caches have; the one with the fewest holes is taken, the first one of equals."""
    different: int
    """How many of these differ in bytes."""
    seeds: dict[int, int]
    """Augmentation seeds of the result with the number of their shards."""
    of_shards: int
    """Shards of a complete seed."""

    def document(self) -> dict[str, Any]:
        """The summary as a JSON-compatible document."""
        return {**asdict(self), "seeds": {str(seed): shards for seed, shards in self.seeds.items()}}

    def text(self) -> str:
        """Lines for people."""
        copied = ", ".join(f"{count} from {root}" for root, count in self.shards.items())
        lines = [f"{self.cache}: {count_text(sum(self.shards.values()), 'shard')} copied ({copied})"]
        lines[0] += f", {bytes_text(self.bytes)}"
        if self.twice:
            lines.append(
                f"{count_text(self.twice, 'shard')} were in several caches, {self.different} of them with other bytes; "
                "the one with the fewest holes was taken, the first one of equals"
            )
        broken = [f"{seed} has {count} of {self.of_shards}" for seed, count in self.seeds.items()]
        complete = [str(seed) for seed, count in self.seeds.items() if count == self.of_shards]
        missing = [text for text, count in zip(broken, self.seeds.values(), strict=True) if count < self.of_shards]
        lines.append("; ".join([f"complete seeds: {', '.join(complete) or 'none'}", *missing]))
        return "\n".join(lines)


@dataclass(frozen=True)
class _Source:
    root: Path
    layout: CacheLayout
    manifest: Manifest


@dataclass(frozen=True)
class _Copy:
    """A shard to copy."""

    source: _Source
    seed: int
    shard: int
    receipt: Receipt


def merge_caches(
    sources: Sequence[Path], out: Path, *, workers: int = 1, progress: Progress | None = None
) -> MergeSummary:
    """Copy the committed shards of several caches into one.

    Args:
        sources: caches of one recipe, precision, calibration, container and shard size, at least two.
        out: new, empty, or a cache of the same kind, which is then completed.
        workers: threads, at least 1.
        progress: called after each shard.

    Raises:
        UsageError: fewer than two caches, or ``out`` is one of them or inside one.
        RecipeMismatchError: caches have different recipes.
        CacheError: caches differ in another way; the message names it.
        IntegrityError: an object differs from its receipt; its shard is not copied.
        StorageError: the operating system refused; copied shards stay valid.
    """
    if len(sources) < 2:
        raise UsageError(f"a merge takes at least two caches, found {len(sources)}")
    if workers < 1:
        raise UsageError(f"workers: expected at least 1, found {workers}")
    out = out.expanduser().absolute()
    opened = [_opened(root.expanduser().absolute(), out) for root in sources]
    first = opened[0]
    for other in opened[1:]:
        _require_same(first.root, first.manifest, other.root, other.manifest)
    found = existing_manifest(out)
    if found is not None:
        _require_same(first.root, first.manifest, out, found)
    with exclusive_writer(out):
        if found is None:
            create_cache(out, first.manifest)
        remove_temporary_files(out)
        copies, twice, different = _chosen(opened)
        target = CacheLayout(out)
        for seed in sorted({copy.seed for copy in copies}):
            prepare_seed(out, first.manifest, seed)
        todo = [one for one in copies if not is_committed(target, first.manifest, one.seed, one.shard)]
        _require_space(todo, out)
        copied, size = dict.fromkeys((str(one.root) for one in opened), 0), 0
        try:
            results = in_threads(lambda one: _copy_shard(one, target), todo, workers)
            for done, (one, count) in enumerate(zip(todo, results, strict=True), len(copies) - len(todo) + 1):
                copied[str(one.source.root)] += 1
                size += count
                if progress is not None:
                    progress(done, len(copies))
        finally:
            remove_temporary_files(out)
        seeds = {seed: len(target.receipted_shards(seed)) for seed in target.seeds()}
    return MergeSummary(
        cache=str(out),
        fingerprint=first.manifest.recipe.fingerprint,
        shards=copied,
        bytes=size,
        twice=twice,
        different=different,
        seeds=seeds,
        of_shards=first.manifest.shard_count,
    )


def _opened(root: Path, out: Path) -> _Source:
    if out.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"{out}: caches cannot be merged into one of them or a folder in it; choose another folder")
    layout = CacheLayout(root)
    return _Source(root, layout, layout.load_manifest())


def _require_same(root: Path, manifest: Manifest, other_root: Path, other: Manifest) -> None:
    advice = f"it can only be merged with caches of the recipe of {root}"
    check_same_recipe(other_root, other.recipe, manifest.recipe, advice=advice)
    pairs: Mapping[str, tuple[object, object]] = {
        "precision": (manifest.encoding.precision, other.encoding.precision),
        "calibration": (manifest.encoding.digest, other.encoding.digest),
        "container": (manifest.container, other.container),
        "shard size": (manifest.shard_size, other.shard_size),
        "arrays": (manifest.arrays, other.arrays),
        "classes": (manifest.classes, other.classes),
    }
    for name, (ours, theirs) in pairs.items():
        if ours != theirs:
            values = "" if name in ("arrays", "classes") else f" ({theirs}, the other one has {ours})"
            raise CacheError(f"{other_root}: has another {name} than {root}{values}; {_REMEDY.get(name, _CONVERT)}")


_CONVERT = "nothing was copied: feature-cache convert gives it the same"
_REMEDY = {
    "calibration": "nothing was copied: machines that extract parts of one cache have to start from one manifest.json "
    "(run extract-features on one, copy its manifest.json and encoding/ to the others' --out, then run it there)",
    "classes": "nothing was copied: labels would change their meaning",
    "arrays": "nothing was copied: they must be made with the same --pixels and --moments",
}


def _chosen(sources: Sequence[_Source]) -> tuple[list[_Copy], int, int]:
    """The shards to copy, and how many are in several caches, with equal and with other bytes."""
    candidates: dict[tuple[int, int], list[_Copy]] = {}
    for source in sources:
        for seed, shard in _committed(source):
            receipt = source.layout.load_receipt(seed, shard)
            candidates.setdefault((seed, shard), []).append(_Copy(source, seed, shard, receipt))
    several = [found for found in candidates.values() if len(found) > 1]
    different = sum(len({tuple(one.digest for one in copy.receipt.objects) for copy in found}) > 1 for found in several)
    chosen = [min(found, key=lambda copy: len(copy.receipt.holes)) for _, found in sorted(candidates.items())]
    return chosen, len(several), different


def _committed(source: _Source) -> Iterator[tuple[int, int]]:
    for seed in source.layout.seeds():
        for shard in source.layout.receipted_shards(seed):
            if is_committed(source.layout, source.manifest, seed, shard):
                yield seed, shard


def _copy_shard(copy: _Copy, target: CacheLayout) -> int:
    """Copy a shard's objects, then its receipt; returns the bytes of the objects."""
    for stored in copy.receipt.objects:
        _copy_object(copy.source.root, target.root, stored)
    receipt = copy.source.layout.receipt_file(copy.seed, copy.shard)
    try:
        content = receipt.read_bytes()
    except OSError as error:
        raise access_error(error, receipt) from error
    write_bytes(target.receipt_file(copy.seed, copy.shard), content)
    return copy.receipt.content_bytes


def _copy_object(root: Path, target: Path, stored: StoredObject) -> None:
    path, hasher = root / stored.path, hashlib.sha256()
    try:
        source = path.open("rb", buffering=0)
    except OSError as error:
        raise access_error(error, path) from error
    with source, atomic_file(target / stored.path) as file:
        while block := _read(source, path):
            hasher.update(block)
            file.write(block)
        found = DIGEST_PREFIX + hasher.hexdigest()
        if found != stored.digest:
            raise IntegrityError(
                f"{path} (array {stored.array!r}): its digest is {found}, its receipt lists {stored.digest}: the "
                f"object is damaged; {REPAIR}"
            )


def _read(source: Any, path: Path) -> bytes:
    try:
        block: bytes = source.read(_BLOCK_BYTES)
    except OSError as error:
        raise access_error(error, path) from error
    return block


def _require_space(copies: Sequence[_Copy], out: Path) -> None:
    """Refuse a merge that does not fit on the disk.

    Raises:
        StorageError: the disk has less free space than the shards need.
    """
    needed = sum(copy.receipt.content_bytes for copy in copies)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise StorageError(
            f"{out}: the shards to copy take {bytes_text(needed)}, and {bytes_text(free)} are free there; make "
            "room, or choose another disk"
        )
