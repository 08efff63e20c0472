"""``feature-cache convert``: the same features in another container, fewer bits, fewer tokens, or other shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from lookonce.commands.cache_commands.subcommand import Subcommand
from lookonce.commands.command import CommonOptions
from lookonce.shared.errors import UsageError
from lookonce.shared.given_flags import refuse_without_effect
from lookonce.storage_schemas.tokens import TokenSubset, parse_token_subset


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Flags of feature-cache convert."""

    cache: tyro.conf.Positional[Path]
    """Cache folder to read; its seeds must be whole."""
    out: tyro.conf.Positional[Path]
    """Cache folder to write: new, empty, or a conversion that was stopped, which is then completed."""
    format: Literal["zarr", "webdataset"] | None = None
    """Container of the shards; default: as they are."""
    precision: str | None = None
    """How target values are stored: only fewer bits than now; default: as they are."""
    tokens: str | None = None
    """Patches to keep of a cache of all tokens, as in extract-features: visible, or top:0.5; default: as now."""
    mask: Literal["attentive", "random", "hide-attentive"] = "attentive"
    """With --tokens visible: kind of mask."""
    mask_ratio: float = 0.7
    """With --tokens visible: share of the patches that are not kept, 0 up to 1."""
    shard_size: int | None = None
    """Samples a shard, at least 1; default: as now."""
    workers: int = 1
    """Threads, at least 1."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        for flag, value in (("--shard-size", self.shard_size), ("--workers", self.workers)):
            if value is not None and value < 1:
                raise UsageError(f"{flag}: expected at least 1, found {value}")
        subset = self.token_subset()
        if subset is None or subset.kind != "visible":
            refuse_without_effect(self, "--tokens visible", "mask", "mask_ratio")

    def token_subset(self) -> TokenSubset | None:
        """What ``--tokens`` and the mask options say; None without ``--tokens``.

        Raises:
            UsageError: one of them cannot be read or is out of its range.
        """
        if self.tokens is None:
            return None
        return parse_token_subset(self.tokens, mask=self.mask, mask_ratio=self.mask_ratio)


def _run(options: Options) -> Mapping[str, Any]:
    from tqdm import tqdm

    from lookonce.cache.convert.conversion import convert_cache
    from lookonce.cache.convert.request import ConversionRequest

    request = ConversionRequest(
        container=options.format,
        precision=options.precision,
        shard_size=options.shard_size,
        tokens=options.token_subset(),
    )
    with tqdm(unit="shard", disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return convert_cache(options.cache, options.out, request, workers=options.workers, progress=show).document()


def _summarise(result: Mapping[str, Any]) -> str:
    written, shards = result["shards_written"], result["shards"]
    return (
        f"{result['cache']}: {result['precision']}, {result['container']}, {shards} shards ({written} written now), "
        f"{result['bytes'] / 1e6:.1f} MB, {result['bytes'] / max(result['source_bytes'], 1):.0%} of {result['source']}"
    )


CONVERT = Subcommand(
    name="convert",
    description="Write the same features in another container, fewer bits, fewer tokens, or shards of another size.",
    options=Options,
    run=_run,
    summarise=_summarise,
)
