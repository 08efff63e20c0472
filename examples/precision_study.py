"""What fewer bits and fewer tokens cost the student: one run from each of several conversions of one cache.

    python examples/precision_study.py --out precision \
        --teacher-weights ../shared/data/deit_tiny_patch16_224.safetensors [--quick]

`--ways fp16,int4,klt1,klt0.5` chooses them. The teacher runs once, for an fp16 cache. The other caches are conversions
of it, so all students see the same views. A cache of visible tokens has one fixed mask per view and seed; from the
others, each epoch draws new masks.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from study import Judged, Study, Variant, run_study, table, write_results
from study_options import end_with_a_sentence, study_options

from lookonce.api import (
    AllTokens,
    ConversionRequest,
    UsageError,
    VisibleTokens,
    convert_cache,
    open_cache,
    open_labelled_images,
)


@dataclass(frozen=True, kw_only=True)
class PrecisionStudy(Study):
    """Flags of the study."""

    cached_seeds: str = "0-3"
    """Augmentation seeds of each cache."""
    ways: str = "fp16,int8,int4,int2,int4-visible,int2-visible,int4-visible-0.8"
    """How features are stored: precisions, each with -visible for the visible tokens of one mask at ratio 0.7 alone, or
    -visible-RATIO. The first one is what the others are compared with."""


ACCURACIES = {
    "class token, k = 10": "knn cls 10",
    "k = 20": "knn cls 20",
    "mean, k = 10": "knn mean 10",
    "k = 20 ": "knn mean 20",
    "linear probe": "linear",
}
"""Columns of the table by their measures."""
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
    judged = run_study(study, variants, study.held_out(), judges=("training", "knn", "held-out", "linear"))
    sizes = [view_bytes(cache) for cache in caches]
    drawn = precision_table(ways, sizes, judged)
    plot(ways, sizes, judged, len(open_labelled_images(study.images).test.labels), study.out / "precision.png")
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


def over_first(judged: Sequence[Judged], line: Judged) -> list[float]:
    """Held-out loss of each run over that of the first way's run of the same seed, in percent."""
    return [
        100 * (own / base - 1)
        for own, base in zip(line.measures["held-out"], judged[0].measures["held-out"], strict=True)
    ]


def precision_table(ways: Sequence[StoredAs], sizes: Sequence[int], judged: Sequence[Judged]) -> str:
    """One row per way of storing; accuracies in percent."""
    heads = [
        "",
        "bytes per view",
        *ACCURACIES,
        "held-out loss",
        f"% over {ways[0].name}'s",
        "on whole views",
    ]
    rows = []
    for way, size, line in zip(ways, sizes, judged, strict=True):
        over = Judged(name=way.name, measures={"over": over_first(judged, line)})
        rows.append(
            [
                way.name,
                f"{size:,}",
                *(line.text(measure, 100) for measure in ACCURACIES.values()),
                line.text("held-out", digits=5),
                over.text("over", digits=2) if line is not judged[0] else "",
                line.text("held-out whole", digits=4),
            ]
        )
    return table(heads, rows)


def plot(
    ways: Sequence[StoredAs], sizes: Sequence[int], judged: Sequence[Judged], test_pictures: int, file: Path
) -> None:
    """Plot held-out loss and accuracies against bytes per view.

    Bars of a loss are its standard error over the run seeds; those of an accuracy are at least the binomial standard
    error of ``test_pictures`` pictures.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    over = [over_first(judged, line) for line in judged]
    left.errorbar(sizes, [statistics.fmean(one) for one in over], [standard_error(one) for one in over], fmt="o")
    for way, size, one in zip(ways, sizes, over, strict=True):
        left.annotate(way.name, (size, statistics.fmean(one)), xytext=(4, 4), textcoords="offset points", fontsize=8)
    left.axhline(0, color="0.7", linewidth=0.8)
    left.set_ylabel(f"held-out loss over that of {ways[0].name}, %")
    for label in ("class token, k = 10", "linear probe"):
        runs = [[100 * value for value in line.measures[ACCURACIES[label]]] for line in judged]
        means = [statistics.fmean(one) for one in runs]
        errors = [
            max(standard_error(one), math.sqrt(mean * (100 - mean) / test_pictures))
            for one, mean in zip(runs, means, strict=True)
        ]
        right.errorbar(sizes, means, errors, fmt="o", capsize=2, label=label)
    right.set_ylabel(f"accuracy on {test_pictures:,} test pictures, %")
    right.legend()
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("bytes per view")
    FigureCanvasAgg(figure).print_png(str(file))  # type: ignore[no-untyped-call]


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean; 0 for a single value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


if __name__ == "__main__":
    end_with_a_sentence(main)
