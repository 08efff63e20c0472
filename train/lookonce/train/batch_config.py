"""Configuration of the batches that a run reads; imports no torch, so that ``train-student --help`` answers at once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lookonce.shared.config_values import (
    Count,
    Fraction,
    Marker,
    NonNegativeInt,
    Positive,
    convert_fields,
    parse_bytes,
    parse_seeds,
    validate,
)
from lookonce.shared.errors import UsageError
from lookonce.shared.given_flags import refuse_urls, refuse_without_effect
from lookonce.train.names import CheckName, MaskName, ReadaheadName, ShuffleName

MAY_CHANGE = Marker("may differ between a run and its continuation; all other fields decide the sequence of numbers")
_URL = re.compile(r"(s3|gs|az|hf|https?):/+(.*)", re.IGNORECASE | re.DOTALL)
SAME_IN_SWEEP = Marker("equal in all runs of a sweep: decides which samples are read when, and where the runs lie")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Which caches a run reads, and which samples and patches each of its steps gets."""

    shards: Annotated[tuple[str | Path, ...], MAY_CHANGE, SAME_IN_SWEEP]
    """Cache folders written by extract-features, or URLs of caches (s3, gs, az, hf, https), whose objects are fetched
    as they are needed; several teachers over the same views are aligned together, each by its own adapters and W. The
    first one's importance decides the masks."""
    mask: MaskName | None = None
    """attentive keeps important patches with high probability, hide-attentive hides them; default: attentive, or
    the mask of a cache of visible tokens."""
    mask_ratio: Fraction | None = None
    """Share of the patches that the student does not see, 0 up to 1; default: 0.7, or the ratio of such a cache."""
    epochs: Annotated[Count, SAME_IN_SWEEP] = 200
    """Times every sample is seen; augmentation seeds rotate over epochs."""
    batch_size: Annotated[Count, SAME_IN_SWEEP] = 1024
    """Samples per step, over all processes."""
    seed: Annotated[NonNegativeInt, SAME_IN_SWEEP] = 0
    """Seed of weights, order, masks and stochastic depth."""
    workers: Annotated[NonNegativeInt, MAY_CHANGE, SAME_IN_SWEEP] = 2
    """Threads that read batches ahead; 0 reads each batch in the step itself."""
    shuffle: Annotated[ShuffleName, SAME_IN_SWEEP] = "global"
    """global: over all samples; block: over a few shards at a time, for caches on cold or remote storage."""
    shuffle_shards: Annotated[Count, SAME_IN_SWEEP] = 16
    """With --shuffle block: number of shards that samples are drawn from at a time."""
    seeds: Annotated[str | None, SAME_IN_SWEEP] = None
    """Augmentation seeds to use, such as 0-3; default: all in the cache."""
    images: Annotated[str | None, MAY_CHANGE, SAME_IN_SWEEP] = None
    """Image source, for caches made with --pixels none: views are replayed and checked against their digests."""
    check: Annotated[CheckName, MAY_CHANGE, SAME_IN_SWEEP] = "first-use"
    """When a shard's bytes are checked against their digest; what comes from a URL always is, once in each process."""
    readahead: Annotated[ReadaheadName, MAY_CHANGE, SAME_IN_SWEEP] = "auto"
    """Announce batches to the kernel before they are read: advice, none, or auto: the faster one in a short test."""

    cache_dir: Annotated[Path | None, MAY_CHANGE, SAME_IN_SWEEP] = None
    """With a URL in --shards: folder for fetched objects, which all runs of a machine share; default:
    LOOKONCE_CACHE_DIR, or ~/.cache/lookonce/objects."""
    cache_limit: Annotated[str | None, MAY_CHANGE, SAME_IN_SWEEP] = None
    """Most bytes of objects in --cache-dir, such as 200GB; what was not used for the longest time is deleted first.
    Default: what the disk has room for."""
    patience: Annotated[Positive, MAY_CHANGE, SAME_IN_SWEEP] = 120.0
    """With a URL in --shards: seconds without progress after which failing requests are no longer repeated."""

    def __post_init__(self) -> None:
        """Convert paths given as text; refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        convert_fields(self, _places, "shards")
        convert_fields(self, Path, "cache_dir")
        convert_fields(self, str, "seeds", "images", "cache_limit")
        validate(self)
        refuse_urls(self)
        if not self.urls:
            refuse_without_effect(self, "a URL in --shards", "cache_dir", "cache_limit", "patience")
        if self.cache_limit is not None:
            parse_bytes(self.cache_limit, "--cache-limit")
        if self.shuffle == "global":
            refuse_without_effect(self, "--shuffle block", "shuffle_shards")
        if not self.shards:
            raise UsageError("--shards: give at least one cache")
        if self.seeds is not None:
            parse_seeds(self.seeds)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Those of ``shards`` that are folders."""
        return tuple(one for one in self.shards if isinstance(one, Path))

    @property
    def urls(self) -> tuple[str, ...]:
        """Those of ``shards`` that are URLs."""
        return tuple(one for one in self.shards if isinstance(one, str))

    @property
    def window_shards(self) -> int | None:
        """Shards that are open at a time in a block shuffle; None: samples are drawn from all."""
        return self.shuffle_shards if self.shuffle == "block" else None


def _places(given: str | Path | Iterable[str | Path]) -> tuple[Path | str, ...]:
    return tuple(map(_place, [given] if isinstance(given, str | Path) else given))


def _place(given: str | Path) -> Path | str:
    if (url := _URL.fullmatch(str(given))) is None:
        return Path(given)
    return given if isinstance(given, str) else f"{url[1].lower()}://{url[2]}"  # Path has merged two slashes
