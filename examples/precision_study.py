"""What fewer bits and fewer tokens cost the student: one run from each of several conversions of one cache.

    python examples/precision_study.py --out precision \
        --teacher-weights ../shared/data/deit_tiny_patch16_224.safetensors [--quick]

`--ways fp16,int4,klt1,klt0.5` chooses them. The teacher runs once, for an fp16 cache. The other caches are conversions
of it, so all students see the same views. A cache of visible tokens has one fixed mask per view and seed; from the
others, each epoch draws new masks.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from study import Judged, Study, Variant, run_study, table, write_results
from study_options import end_with_a_sentence, study_options

from lookonce.api import AllTokens, ConversionRequest, UsageError, VisibleTokens, convert_cache, open_cache


@dataclass(frozen=True, kw_only=True)
class PrecisionStudy(Study):
    """Flags of the study."""

    cached_seeds: str = "0-3"
    """Augmentation seeds of each cache."""
    ways: str = "fp16,int8,int4,int2,int4-visible,int2-visible,int4-visible-0.8"
    """How features are stored: precisions, each with -visible for the visible tokens of one mask at ratio 0.7 alone, or
    -visible-RATIO. The first one is what the others are compared with."""


ALL, VISIBLE = AllTokens(), VisibleTokens(mask="attentive", mask_ratio=0.7)


@dataclass(frozen=True, kw_only=True)
class StoredAs:
    """A precision and a token subset for the same features."""

    precision: str
    tokens: AllTokens | VisibleTokens = ALL

    @property
    def name(self) -> str:
        """Name of the cache and the runs."""
        if not isinstance(self.tokens, VisibleTokens):
            return self.precision
        ratio = "" if self.tokens == VISIBLE else f"-{self.tokens.mask_ratio}"
        return f"{self.precision}-visible{ratio}"


def parse_way(name: str) -> StoredAs:
    """Read one of ``--ways``.

    Raises:
        UsageError: an unknown precision, or a ratio out of range.
    """
    precision, *rest = name.split("-visible", 1)
    ConversionRequest(precision=precision)  # refuses unknown names before the teacher runs
    if not rest:
        return StoredAs(precision=precision)
    try:
        ratio = float(rest[0].removeprefix("-") or 0.7)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio < 1:
        raise UsageError(
            f"--ways {name}: expected PRECISION, PRECISION-visible or PRECISION-visible-RATIO, 0 to below 1"
        )
    return StoredAs(precision=precision, tokens=VisibleTokens(mask="attentive", mask_ratio=ratio))


def main(arguments: list[str] | None = None) -> None:
    """Run the study."""
    study = study_options(PrecisionStudy, __doc__, arguments)
    ways = [parse_way(name) for name in study.ways.split(",")]
    exact = study.extract("fp16", split="train", seeds=study.cached_seeds, precision="fp16")
    caches = [converted(study, exact, way) for way in ways]
    variants = [Variant(name=way.name, config=study.training(cache)) for way, cache in zip(ways, caches, strict=True)]
    judged = run_study(study, variants, study.held_out())
    drawn = precision_table(ways, [view_bytes(cache) for cache in caches], judged)
    write_results(study, {"What a precision costs the student": drawn}, {"precision": judged})


def converted(study: Study, exact: Path, way: StoredAs) -> Path:
    """Convert the fp16 cache to another precision or token subset; return the fp16 cache itself for fp16."""
    if way.precision == "fp16" and way.tokens.keeps_all:
        return exact
    out = study.out / "caches" / way.name
    request = ConversionRequest(precision=way.precision, tokens=None if way.tokens.keeps_all else way.tokens)
    convert_cache(exact, out, request)
    print(f"{way.name}: converted", file=sys.stderr, flush=True)
    return out


def view_bytes(cache: Path) -> int:
    """Bytes of one stored view, with its pixels and without its key."""
    return sum(array.sample_bytes for array in open_cache(cache).manifest.arrays)


def precision_table(ways: list[StoredAs], sizes: list[int], judged: list[Judged]) -> str:
    """One row per way of storing."""
    heads = [
        "",
        "bytes per view",
        "cls, k = 10",
        "k = 20",
        "mean, k = 10",
        "k = 20",
        "held-out loss",
        "on whole views",
    ]
    rows = [
        [
            way.name,
            f"{size:,}",
            *(line.text(f"knn {pool} {k}", 100) for pool in ("cls", "mean") for k in (10, 20)),
            line.text("held-out", digits=4),
            line.text("held-out whole", digits=4),
        ]
        for way, size, line in zip(ways, sizes, judged, strict=True)
    ]
    return table(heads, rows)


if __name__ == "__main__":
    end_with_a_sentence(main)
