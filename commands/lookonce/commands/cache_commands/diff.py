"""``feature-cache diff``: what differs between two caches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from lookonce.commands.catalogue_commands.cache_names import cache_folder
from lookonce.commands.command import CommonOptions
from lookonce.commands.subcommand import Subcommand
from lookonce.shared.config_values import Count, validate

if TYPE_CHECKING:
    from lookonce.cache.compare.difference import CacheDifference


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Flags of feature-cache diff."""

    first: tyro.conf.Positional[Path]
    """Cache folder."""
    second: tyro.conf.Positional[Path]
    """Cache folder to compare with it."""
    views: Count = 32
    """Most views whose values are compared, at least 1."""

    def __post_init__(self) -> None:
        validate(self)


def _run(options: Options) -> CacheDifference:
    from lookonce.cache.compare.difference import compare_caches

    return compare_caches(cache_folder(options.first), cache_folder(options.second), views=options.views)


DIFF = Subcommand(
    name="diff",
    description="Compare the recipes, storage, seeds and values of two caches; exits with 0 if they are the same, else "
    "with 1.",
    options=Options,
    run=_run,
)
