"""Joins several caches over the same views by (key, seed); a view that differs between two is an error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookonce.cache.read.cache_files import FolderFiles
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.read.remote_caches import RemoteCaches, RemoteOptions, open_remote_caches
from lookonce.shared.config_values import parse_bytes, parse_seeds
from lookonce.shared.errors import CacheMismatchError, UsageError
from lookonce.storage_schemas.recipe import document_differences
from lookonce.train.batch_config import BatchConfig
from lookonce.train.data.caches.sample_keys import SampleKeys

CHECKED_AT_START = 256
"""Views per seed whose pixel digests are compared when caches are joined; the others are compared when read."""


class JoinedCaches:
    """The samples that every cache contains, for the wanted seeds; thread-safe.

    The first cache leads: its rows number the samples, its importance decides masks, students see its pixels.

    Args:
        readers: open caches, at least one.
        unused_seeds: complete seeds of each cache that another lacks.
        remote: what those at URLs belong to.

    Raises:
        CacheMismatchError: the caches contain different views, no sample is in all of them, or the first one stores
            more patches per view than another.
    """

    def __init__(
        self,
        readers: Sequence[CacheReader],
        unused_seeds: Sequence[Sequence[int]] | None = None,
        remote: RemoteCaches | None = None,
    ) -> None:
        self.readers, self.remote = tuple(readers), remote
        self.room_told = False
        """Whether the room that the run needs was printed."""
        self.unused_seeds = unused_seeds or [()] * len(self.readers)
        self.first = self.readers[0]
        self.seeds: tuple[int, ...] = self.first.seeds
        in_tars = self.first.manifest.container == "webdataset"
        self.keys = SampleKeys(self.first, by_shard=self.is_remote(0) and in_tars)
        """Keys of the rows of the first cache."""
        rows = _rows_of_all_seeds(self.first)
        self._rows_in: list[NDArray[np.int64] | None] = [None]
        for other in self.readers[1:]:
            _require_same_views(self.first, other)
            _require_drawn_patches(self.first, other)
            mapping = self._mapping(other)
            if mapping is not None:
                rows = rows[mapping[rows] >= 0]
                rows = rows[np.isin(mapping[rows], _rows_of_all_seeds(other), assume_unique=True)]
            else:
                rows = np.intersect1d(rows, _rows_of_all_seeds(other), assume_unique=True)
            self._rows_in.append(mapping)
        if not len(rows):
            raise CacheMismatchError(
                f"{', '.join(reader.place for reader in self.readers)}: no sample is readable in every cache and "
                f"seed ({', '.join(map(str, self.seeds))}); join caches of the same images"
            )
        self.rows: NDArray[np.int64] = rows
        """Rows of the first cache that every cache contains, int64 ascending."""
        self.missing_elsewhere = [len(_rows_of_all_seeds(reader)) - len(rows) for reader in self.readers]
        """Samples of each cache that another lacks."""
        for seed in self.seeds if remote is None else ():  # it would fetch an object of every shard
            some = rows[:: max(1, len(rows) // CHECKED_AT_START)]
            self.require_same_pixels(np.full(len(some), seed), some)

    def is_remote(self, cache: int) -> bool:
        """Whether a cache is read from a URL."""
        return not isinstance(self.readers[cache].files, FolderFiles)

    def place(self, cache: int) -> str:
        """Absolute path or URL of a cache."""
        reader = self.readers[cache]
        return reader.place if self.is_remote(cache) else str(reader.root.absolute())

    @property
    def urls(self) -> list[str]:
        """The URLs of the caches that have one."""
        return [reader.place for number, reader in enumerate(self.readers) if self.is_remote(number)]

    def close(self) -> None:
        """Give up what was fetched from URLs; it stays in its folder until the room is needed."""
        if self.remote is not None:
            self.remote.close()

    def rows_in(self, cache: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of a cache that match rows of the first one."""
        mapping = self._rows_in[cache]
        return rows if mapping is None else mapping[rows]

    def require_same_pixels(self, seeds: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Compare the pixel digests of views between the caches.

        Args:
            seeds: augmentation seed of each view, (B,).
            rows: row of each view in the first cache, (B,).

        Raises:
            CacheMismatchError: two caches have different pixels; the message names the view.
        """
        if len(self.readers) == 1:
            return
        expected = self.first.read("pixel_digest", seeds, rows)
        for number, other in enumerate(self.readers[1:], start=1):
            theirs = other.read("pixel_digest", seeds, self.rows_in(number, rows))
            wrong = np.flatnonzero((expected != theirs).any(axis=1))
            if len(wrong):
                key = self.keys.of(rows[wrong[:1]], seeds[wrong[:1]])[0]
                seed = int(seeds[wrong[0]])
                raise CacheMismatchError(
                    f"{other.place}: the view of {key!r}, seed {seed}, has other pixels than in {self.first.place} "
                    "(the image was replaced, or another image library resized it); extract one of them from the "
                    f"other's views: extract-features --reuse {self.first.place}"
                )

    def _mapping(self, other: CacheReader) -> NDArray[np.int64] | None:
        """Row in ``other`` of each row of the first cache, -1 for none; None if the listings are equal."""
        if other.manifest.recipe.dataset == self.first.manifest.recipe.dataset:
            return None
        theirs = {key: row for row, key in enumerate(other.column("key", self.seeds[0]))}
        return np.array([theirs.get(key, -1) for key in self.keys.everything()], dtype=np.int64)


def open_caches(config: BatchConfig) -> JoinedCaches:
    """Open and join the caches of a run, with its augmentation seeds or those that are complete in every cache.

    Raises:
        UsageError: the caches have no seed in common.
        CacheError: see ``CacheReader`` and ``JoinedCaches``.
    """
    remote = _remote_caches(config)

    def opened(place: Path | str, seeds: Sequence[int] | None = None) -> CacheReader:
        files = remote.files(place) if remote is not None and isinstance(place, str) else FolderFiles(Path(place))
        return CacheReader(files, seeds=seeds, check=config.check, readahead=config.readahead)

    seeds, unused = None if config.seeds is None else parse_seeds(config.seeds), None
    if seeds is None and len(config.shards) > 1:
        complete = [opened(root).seeds for root in config.shards]
        seeds = tuple(sorted(set.intersection(*map(set, complete))))
        if not seeds:
            listed = "; ".join(
                f"{root}: {', '.join(map(str, own))}" for root, own in zip(config.shards, complete, strict=True)
            )
            raise UsageError(f"--shards: the caches have no augmentation seed in common ({listed})")
        unused = [[seed for seed in own if seed not in seeds] for own in complete]
    return JoinedCaches([opened(root, seeds) for root in config.shards], unused, remote)


def _remote_caches(config: BatchConfig) -> RemoteCaches | None:
    if not config.urls:
        return None
    return open_remote_caches(
        RemoteOptions(
            cache_dir=config.cache_dir,
            cache_limit=None if config.cache_limit is None else parse_bytes(config.cache_limit, "--cache-limit"),
            patience=config.patience,
        )
    )


def _require_same_views(first: CacheReader, other: CacheReader) -> None:
    ours, theirs = (
        {"view": reader.manifest.recipe.view, "patch_size": reader.manifest.recipe.patch_size}
        for reader in (first, other)
    )
    differences = document_differences(ours, theirs)
    if differences:
        listed = "; ".join(f"{name}: {mine!r} and {yours!r}" for name, mine, yours in differences)
        raise CacheMismatchError(
            f"{first.place} and {other.place} contain different views ({listed}); only caches of one view recipe and "
            "patch size can be aligned together"
        )


def _require_drawn_patches(first: CacheReader, other: CacheReader) -> None:
    """Masks are drawn from the patches of the first cache; whether another cache has them is checked per batch."""
    drawn_from, stored = first.manifest.recipe.stored_patches, other.manifest.recipe.stored_patches
    if drawn_from > stored:
        raise CacheMismatchError(
            f"{other.place}: it stores {stored} of {other.manifest.recipe.patches} patches per view, and masks are "
            f"drawn from the {drawn_from} of {first.place}, the first of --shards; name {other.place} first, or "
            "extract it with --tokens all"
        )


def _rows_of_all_seeds(reader: CacheReader) -> NDArray[np.int64]:
    rows = reader.rows(reader.seeds[0])
    for seed in reader.seeds[1:]:
        rows = np.intersect1d(rows, reader.rows(seed), assume_unique=True)
    return rows
