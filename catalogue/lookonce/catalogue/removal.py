"""Deletes a cache, or some seeds of it, unless someone needs it.

A stopped removal leaves no cache that looks whole: a cache is renamed before its files are deleted, its manifest first,
and a seed loses its receipts before its shards.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookonce.cache.layout import CacheLayout
from lookonce.cache.write.create import exclusive_writer
from lookonce.catalogue.catalogue import Catalogue
from lookonce.catalogue.entry import entry_of
from lookonce.catalogue.pins import FOLDER as PINS
from lookonce.catalogue.pins import held_pins
from lookonce.shared.errors import BusyError, UsageError
from lookonce.shared.faults.os_errors import storage_error
from lookonce.shared.files.atomic import TEMPORARY_MARK
from lookonce.shared.files.lock import LOCK_FILES
from lookonce.shared.printing import Result, bytes_text
from lookonce.storage_schemas.encoding import OBJECT_FOLDER
from lookonce.storage_schemas.manifest import FILE_NAME

_SEED_FOLDER = re.compile(r"seed-\d{4,}")

REMOVED_MARK = ".removed-"
"""Part of the name of a folder whose cache is being deleted; it starts with a dot."""


@dataclass(frozen=True, kw_only=True)
class RemovalSummary(Result):
    """What was deleted."""

    cache: str
    seeds: tuple[int, ...] | None
    """None: the whole cache."""
    bytes: int
    """Size of the shards that were deleted."""

    def document(self) -> dict[str, Any]:
        """The summary as a JSON-compatible document."""
        return asdict(self)

    def text(self) -> str:
        """One line for people."""
        part = "" if self.seeds is None else f", seeds {', '.join(map(str, self.seeds))}"
        return f"{self.cache}{part}: deleted, {bytes_text(self.bytes)}"


def remove_cache(root: Path, *, catalogue: Catalogue | None = None) -> RemovalSummary:
    """Delete a cache, and its entry in a catalogue.

    Args:
        root: the cache folder.
        catalogue: forgets the cache.

    Raises:
        UsageError: ``root`` is a symbolic link, or contains files that are no part of a cache; nothing was deleted.
        BusyError: the cache is pinned, or another process writes to it; nothing was deleted.
        CacheError: there is no cache.
        StorageError: the operating system refused; what is left is no cache, and can be deleted by hand.
    """
    root = root.expanduser().absolute()
    _refuse_link(root)
    entry = entry_of(root)
    _refuse_other_files(root)
    _refuse_pinned(root, root)
    aside = root.with_name(f".{root.name}{REMOVED_MARK}{uuid.uuid4().hex[:8]}")
    with exclusive_writer(root):
        _rename(root, aside)
        try:
            _refuse_pinned(aside, root)  # a run may have pinned it a moment ago
        except BusyError:
            _rename(aside, root)
            raise
        _delete_folder(aside)
    if catalogue is not None:
        for other in list(catalogue.entries()):
            if other.place == str(root) and other.state() == "gone":
                catalogue.forget(other)
    return RemovalSummary(cache=str(root), seeds=None, bytes=entry.bytes)


def remove_seeds(root: Path, seeds: Sequence[int], *, catalogue: Catalogue | None = None) -> RemovalSummary:
    """Delete some seeds of a cache; at least one stays.

    Args:
        root: the cache folder.
        seeds: augmentation seeds.
        catalogue: is told what is left.

    Raises:
        UsageError: a seed is not in the cache, or none would be left.
        BusyError, CacheError, StorageError: see ``remove_cache``.
    """
    root = root.expanduser().absolute()
    layout = CacheLayout(root)
    before = entry_of(root)
    there = set(layout.seeds()) | set(layout.seed_folders())
    if missing := sorted(set(seeds) - there):
        listed = ", ".join(map(str, sorted(there))) or "none"
        raise UsageError(f"{root}: has no seed {', '.join(map(str, missing))}; it has {listed}")
    if there <= set(seeds):
        raise UsageError(f"{root}: these are all its seeds; to delete the whole cache, leave --seeds out")
    _refuse_pinned(root, root)
    with exclusive_writer(root):
        for seed in sorted(set(seeds)):
            for folder in (layout.receipt_file(seed, 0).parent, layout.seed_folder(seed)):
                if folder.exists():
                    aside = folder.with_name(f".{folder.name}{REMOVED_MARK}{uuid.uuid4().hex[:8]}")
                    _rename(folder, aside)
                    _delete_folder(aside)
    after = entry_of(root)
    if catalogue is not None:
        catalogue.enter(root)
    return RemovalSummary(cache=str(root), seeds=tuple(sorted(set(seeds))), bytes=before.bytes - after.bytes)


def left_over(root: Path) -> list[Path]:
    """Folders of removals that were stopped, of a cache at ``root``."""
    with contextlib.suppress(OSError):
        return sorted(root.parent.glob(f".{root.name}{REMOVED_MARK}*"))
    return []


def finish_removal(folder: Path) -> None:
    """Delete what a stopped removal left.

    Raises:
        StorageError: the operating system refused.
    """
    _delete_folder(folder)


def _refuse_link(root: Path) -> None:
    """Refuse a symbolic link: the cache behind it may have been entered and named by others."""
    if root.is_symlink():
        raise UsageError(
            f"{root}: is a symbolic link to the cache {root.resolve()}; nothing was deleted: give that path to delete "
            "the cache, or remove the link with rm"
        )


def _refuse_other_files(root: Path) -> None:
    """Refuse a folder in which someone keeps other files, which would be lost."""
    known = {FILE_NAME, OBJECT_FOLDER, PINS, "receipts", *LOCK_FILES}
    marks = (TEMPORARY_MARK, REMOVED_MARK)
    other = sorted(
        path.name
        for path in root.iterdir()
        if path.name not in known and not _SEED_FOLDER.fullmatch(path.name) and not any(m in path.name for m in marks)
    )
    if other:
        listed = ", ".join(other[:3]) + (f" and {len(other) - 3} more" if len(other) > 3 else "")
        raise UsageError(
            f"{root}: contains {listed}, which is no part of the cache and would be lost; nothing was deleted: move it "
            "elsewhere, then run the command again"
        )


def _refuse_pinned(root: Path, name: Path) -> None:
    pins = held_pins(root)
    if pins:
        raise BusyError(
            f"{name}: is pinned by {', '.join(map(str, pins))}; wait until the run ends, or take the pin away with "
            "feature-cache unpin"
        )


def _rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        raise storage_error(error, source, "renaming a folder that is to be deleted") from error


def _delete_folder(folder: Path) -> None:
    try:
        CacheLayout(folder).manifest_file.unlink(missing_ok=True)
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(error, folder, "deleting") from error
