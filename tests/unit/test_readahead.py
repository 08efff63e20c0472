"""Announcing samples: what is chosen, that any choice reads the same, and that it survives pickling."""

from __future__ import annotations

import mmap
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lookonce.cache.read.mapped_objects import MappedObject
from lookonce.cache.read.readahead import ANNOUNCED_BYTES, Range, Readahead, will_need
from lookonce.cache.read.reader import CacheReader
from lookonce.shared.errors import IntegrityError

NAMES = ["targets", "pixels"]


class Recorded:
    """A map that records the advice it is given."""

    def __init__(self) -> None:
        self.advice: list[tuple[int, ...]] = []

    def madvise(self, *advice: int) -> None:
        self.advice.append(advice)


def ranges(count: int) -> list[Range]:
    return [(MappedObject(Recorded(), np.zeros(9000, np.uint8), {}), 5000, 100) for _ in range(count)]  # type: ignore[arg-type]


def clock(*readings: float) -> Iterator[float]:
    yield from readings


def advice(some: list[Range]) -> list[int]:
    return [given[0] for mapped, _, _ in some for given in mapped.memory.advice]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("announced", "chosen"), [(0.5, "advice"), (0.95, "none"), (2.0, "none")])
def test_auto_takes_advice_only_where_it_is_faster(announced: float, chosen: str) -> None:
    some, ticks = ranges(4), clock(0, 2, 10, 10 + 2 * announced)
    readahead = Readahead("auto", lambda: next(ticks))
    readahead.announce(some)
    assert readahead.mode == chosen
    assert advice(some[1:2])[-1] == (mmap.MADV_WILLNEED if chosen == "advice" else mmap.MADV_NORMAL)
    readahead.announce(some)  # measured once: the clock has no more readings
    assert readahead.mode == chosen


def test_advice_is_given_in_whole_pages() -> None:
    some = ranges(1)
    Readahead("advice").announce(some)
    first = 5000 // mmap.PAGESIZE * mmap.PAGESIZE
    assert some[0][0].memory.advice == [(mmap.MADV_WILLNEED, first, 5100 - first)]  # type: ignore[attr-defined]


def test_long_ranges_are_announced_in_pieces() -> None:
    mapped = MappedObject(Recorded(), np.zeros(1, np.uint8), {})  # type: ignore[arg-type]
    will_need(mapped, mmap.PAGESIZE + 7, 2 * ANNOUNCED_BYTES + 11)
    given = mapped.memory.advice  # type: ignore[attr-defined]
    assert [(start, length) for _, start, length in given] == [
        (mmap.PAGESIZE, ANNOUNCED_BYTES),
        (mmap.PAGESIZE + ANNOUNCED_BYTES, ANNOUNCED_BYTES),
        (mmap.PAGESIZE + 2 * ANNOUNCED_BYTES, 18),
    ]


def test_none_gives_no_advice_and_nothing_announced_decides_nothing() -> None:
    some = ranges(3)
    Readahead("none").announce(some)
    assert advice(some) == []
    readahead = Readahead("auto")
    readahead.announce([])
    assert readahead.mode == "auto"
    readahead.announce(ranges(1))
    assert readahead.mode == "none"


@pytest.mark.parametrize("container", ["zarr", "webdataset"])
def test_every_choice_reads_the_same(make_manifest, fill_cache, tmp_path: Path, container: str) -> None:
    manifest = make_manifest(samples=9, shard_size=2, container=container)
    written = fill_cache(tmp_path, manifest, seeds=(0, 1), holes=(3,))
    rows, seeds = np.array([8, 0, 5, 1, 2]), np.array([0, 1, 1, 0, 0])
    for mode in ("auto", "none", "advice"):
        reader = CacheReader(tmp_path, readahead=mode)
        for _ in range(2):
            reader.prefetch(NAMES, seeds, rows)
            for name in NAMES:
                expected = np.stack([written[seed][name][row] for seed, row in zip(seeds, rows, strict=True)])
                np.testing.assert_array_equal(reader.read(name, seeds, rows), expected)
        assert reader.readahead.mode != "auto"
        assert pickle.loads(pickle.dumps(reader)).readahead.mode == reader.readahead.mode
    with pytest.raises(IntegrityError, match="row 3 of seed 0 is a hole"):
        CacheReader(tmp_path).prefetch(NAMES, [0], [3])
