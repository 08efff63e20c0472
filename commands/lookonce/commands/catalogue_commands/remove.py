"""``feature-cache rm`` and ``gc``: delete caches that nobody needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from lookonce.catalogue.catalogue import open_catalogue, require_catalogue
from lookonce.catalogue.clean_up import CleanUpSummary, clean_up
from lookonce.catalogue.removal import RemovalSummary, remove_cache, remove_seeds
from lookonce.commands.catalogue_commands.query_options import QueryOptions, parse_age
from lookonce.commands.command import CommonOptions
from lookonce.commands.subcommand import Subcommand
from lookonce.shared.config_values import parse_seeds
from lookonce.shared.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class RemoveOptions(CommonOptions):
    """Flags of feature-cache rm."""

    cache: tyro.conf.Positional[Path]
    """Cache folder, or its name or fingerprint in the catalogue."""
    seeds: str | None = None
    """Delete these augmentation seeds alone, such as 4-7; default: the whole cache."""

    def __post_init__(self) -> None:
        if self.seeds is not None:
            parse_seeds(self.seeds)


@dataclass(frozen=True, kw_only=True)
class CleanUpOptions(QueryOptions):
    """Flags of feature-cache gc."""

    older_than: str = "30d"
    """Least time since the last use: a number with h, d or w."""
    delete: bool = False
    """Delete the caches; without it they are only listed."""
    dry_run: bool = False
    """Only list them, which is what happens without --delete."""
    everyone: bool = False
    """Also delete caches whose folder belongs to another user."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_age("--older-than", self.older_than)
        if self.delete and self.dry_run:
            raise UsageError("--delete and --dry-run contradict each other; give one of them")


def _remove(options: RemoveOptions) -> RemovalSummary:
    root, catalogue = options.cache, open_catalogue()
    if options.seeds is None:
        return remove_cache(root, catalogue=catalogue)
    return remove_seeds(root, parse_seeds(options.seeds), catalogue=catalogue)


def _clean_up(options: CleanUpOptions) -> CleanUpSummary:
    query = options.query(unused_for=parse_age("--older-than", options.older_than))
    return clean_up(require_catalogue(), query, delete=options.delete, everyone=options.everyone)


REMOVE = Subcommand(
    name="rm",
    description="Delete a cache, or some of its seeds. Nothing is deleted that is pinned, being read or being written.",
    options=RemoveOptions,
    run=_remove,
)
CLEAN_UP = Subcommand(
    name="gc",
    description="List the caches of the catalogue that nobody has used for some time, and with --delete delete them. "
    "What is pinned, being read or being written stays.",
    options=CleanUpOptions,
    run=_clean_up,
)
