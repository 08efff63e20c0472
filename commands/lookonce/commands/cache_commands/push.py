"""``feature-cache push``: a cache folder to an object store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from lookonce.commands.cache_commands.byte_bar import byte_bar
from lookonce.commands.command import CommonOptions
from lookonce.commands.subcommand import Subcommand
from lookonce.shared.config_values import subset
from lookonce.stores.push import PushConfig

if TYPE_CHECKING:
    from lookonce.stores.push import PushSummary


@dataclass(frozen=True, kw_only=True)
class Options(PushConfig, CommonOptions):
    """Flags of feature-cache push."""

    cache: tyro.conf.Positional[Path]
    """Cache folder."""
    url: tyro.conf.Positional[str]
    """Where it goes: s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH; empty, or a cache of the same recipe,
    which then gets the seeds that it lacks."""


def _run(options: Options) -> PushSummary:
    from lookonce.stores.push import push_cache

    with byte_bar() as progress:
        return push_cache(subset(PushConfig, options), progress=progress)


PUSH = Subcommand(
    name="push",
    description="Copy a cache to an object store; run it again to go on after a stop.",
    options=Options,
    run=_run,
)
