"""``feature-cache convert``: the same features in another container or shard size, or with fewer bits or tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from lookonce.commands.command import CommonOptions
from lookonce.commands.subcommand import Subcommand
from lookonce.shared.config_values import Count, validate
from lookonce.shared.given_flags import refuse_without_effect
from lookonce.storage_schemas.tokens import TokenSubset, parse_token_subset

if TYPE_CHECKING:
    from lookonce.cache.convert.conversion import ConversionSummary


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Flags of feature-cache convert."""

    cache: tyro.conf.Positional[Path]
    """Cache folder to read; its seeds must be complete."""
    out: tyro.conf.Positional[Path]
    """Cache folder to write: new, empty, or an interrupted conversion, which is then completed."""
    format: Literal["zarr", "webdataset"] | None = None
    """Container of the shards; default: that of CACHE."""
    precision: str | None = None
    """Precision of the stored targets, such as int4 or klt1; must have fewer bits than that of CACHE, which is the
    default. auto:PERCENT is the klt of the fewest bits whose estimated cost is within this percentage of a student's
    loss."""
    tokens: str | None = None
    """Patches to keep, visible or top:0.5 as in extract-features, if CACHE has all tokens; default: those of CACHE."""
    mask: Literal["attentive", "random", "hide-attentive"] = "attentive"
    """With --tokens visible: kind of mask."""
    mask_ratio: float = 0.7
    """With --tokens visible: share of the patches that are dropped, 0 to below 1."""
    moments: Literal["float32", "float16", "none"] | None = None
    """Mean and standard deviation of every token, of no more bits than in CACHE; default: as there."""
    shard_size: Count | None = None
    """Samples per shard, at least 1; default: that of CACHE."""
    workers: Count = 1
    """Threads, at least 1."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        validate(self)
        subset = self.token_subset()
        if subset is None or subset.kind != "visible":
            refuse_without_effect(self, "--tokens visible", "mask", "mask_ratio")

    def token_subset(self) -> TokenSubset | None:
        """The token subset of ``--tokens`` and the mask flags; None without ``--tokens``.

        Raises:
            UsageError: one of them cannot be parsed or is out of range.
        """
        if self.tokens is None:
            return None
        return parse_token_subset(self.tokens, mask=self.mask, mask_ratio=self.mask_ratio)


def _run(options: Options) -> ConversionSummary:
    from tqdm import tqdm

    from lookonce.cache.convert.conversion import convert_cache
    from lookonce.cache.convert.request import ConversionRequest
    from lookonce.catalogue.catalogue import enter_cache

    request = ConversionRequest(
        container=options.format,
        precision=options.precision,
        shard_size=options.shard_size,
        tokens=options.token_subset(),
        moments=options.moments,
    )
    with tqdm(unit="shard", disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        summary = convert_cache(options.cache, options.out, request, workers=options.workers, progress=show)
    enter_cache(options.out)
    return summary


CONVERT = Subcommand(
    name="convert",
    description="Write the same features in another container, fewer bits, fewer tokens, or shards of another size.",
    options=Options,
    run=_run,
)
