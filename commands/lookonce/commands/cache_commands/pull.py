"""``feature-cache pull``: a cache from a URL to a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from lookonce.commands.cache_commands.byte_bar import byte_bar
from lookonce.commands.command import CommonOptions
from lookonce.commands.subcommand import Subcommand
from lookonce.shared.config_values import subset
from lookonce.stores.pull import PullConfig

if TYPE_CHECKING:
    from lookonce.stores.pull import PullSummary


@dataclass(frozen=True, kw_only=True)
class Options(PullConfig, CommonOptions):
    """Flags of feature-cache pull."""

    url: tyro.conf.Positional[str]
    """URL of a cache: s3://, gs://, az://, https:// or hf://datasets/OWNER/NAME[@REVISION][/PATH]."""
    out: tyro.conf.Positional[Path]
    """Cache folder: new, empty, or a cache of the same recipe, which then gets what it lacks."""


def _run(options: Options) -> PullSummary:
    from lookonce.catalogue.catalogue import enter_cache
    from lookonce.stores.pull import pull_cache

    with byte_bar() as progress:
        summary = pull_cache(subset(PullConfig, options), progress=progress)
    enter_cache(options.out, changed=summary.objects_fetched > 0)
    return summary


PULL = Subcommand(
    name="pull",
    description="Copy a cache, or some of its seeds, from an object store, a web server or the hub; run it again to "
    "go on after a stop.",
    options=Options,
    run=_run,
)
