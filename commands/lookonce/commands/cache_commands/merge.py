"""``feature-cache merge``: join caches of one recipe."""

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
    from lookonce.cache.merge.merging import MergeSummary


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Flags of feature-cache merge."""

    caches: tyro.conf.Positional[tuple[Path, ...]]
    """Cache folders to read, at least two, of one recipe, precision and container."""
    out: Path
    """Cache folder to write: new, empty, or a cache of the same kind, which is then completed."""
    workers: Count = 1
    """Threads, at least 1."""

    def __post_init__(self) -> None:
        validate(self)


def _run(options: Options) -> MergeSummary:
    from tqdm import tqdm

    from lookonce.cache.merge.merging import merge_caches
    from lookonce.catalogue.catalogue import enter_cache

    caches = [cache_folder(one) for one in options.caches]
    with tqdm(unit="shard", disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        summary = merge_caches(caches, options.out, workers=options.workers, progress=show)
    enter_cache(options.out)
    return summary


MERGE = Subcommand(
    name="merge",
    description="Join caches of one recipe that contain different seeds or shards, such as those of two machines.",
    options=Options,
    run=_run,
)
