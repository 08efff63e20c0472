"""What caching costs in quality: students of 1, 2, 4 and 8 cached views per image, against an online teacher.

    python examples/cached_seeds.py --out seeds --run-seeds 0-2 \
        --teacher-weights ../shared/data/deit_tiny_patch16_224.safetensors [--quick]

A view is a function of (image, augmentation seed), and every epoch takes the next seed. With as many cached seeds as
epochs no view comes twice, so the run equals one with an online teacher and fresh views. One cache serves all runs, by
``--seeds 0-(K-1)``. All runs of a run seed have the same steps, initial weights and order of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from study import Judged, Study, Variant, run_study, table, write_results
from study_options import end_with_a_sentence, study_options

from lookonce.api import open_labelled_images

MEASURES = {
    "cls, k = 10": "knn cls 10",
    "k = 20": "knn cls 20",
    "mean, k = 10": "knn mean 10",
    "k = 20 ": "knn mean 20",
    "linear": "linear",
}


@dataclass(frozen=True, kw_only=True)
class SeedsStudy(Study):
    """Flags of the study."""

    cached: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of cached views per image; a run with one view per epoch is added."""


def main(arguments: list[str] | None = None) -> None:
    """Run the study."""
    study = study_options(SeedsStudy, __doc__, arguments)
    cache = study.extract("views", split="train", seeds=f"0-{study.epochs - 1}", precision="int8")
    counts = [count for count in study.cached if count < study.epochs] + [study.epochs]
    variants = [Variant(name=f"seeds{count}", config=study.training(cache, seeds=f"0-{count - 1}")) for count in counts]
    judged = run_study(study, variants, study.held_out(), ("knn", "linear", "held-out"))
    drawn = seeds_table(counts, judged)
    write_results(study, {"Cached seeds": drawn}, {"seeds": judged})
    test_images = len(open_labelled_images(study.images).test)
    draw_seeds(counts, judged, study.out / "cached_seeds.png", test_images=test_images)


def _label(count: int, counts: Sequence[int]) -> str:
    return "online" if count == counts[-1] else str(count)


def seeds_table(counts: Sequence[int], judged: Sequence[Judged]) -> str:
    """One row per number of cached seeds; the last row is the online teacher."""
    heads = ["cached views per image", *(name.strip() for name in MEASURES), "loss on test views"]
    rows = [
        [
            f"{count} (online)" if count == counts[-1] else str(count),
            *(line.text(measure, 100) for measure in MEASURES.values()),
            line.text("held-out", digits=4),
        ]
        for count, line in zip(counts, judged, strict=True)
    ]
    return table(heads, rows)


def draw_seeds(counts: Sequence[int], judged: Sequence[Judged], file: Path, *, test_images: int) -> None:
    """Draw accuracy and loss over the number of cached views.

    Bars are the standard deviation of the runs. For a single run they are the standard error over its test images.
    """
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = {"linear": "linear probe", "knn cls 10": "k-NN, class token", "knn mean 10": "k-NN, mean of patches"}
    for number, (measure, name) in enumerate(names.items()):
        values = [np.array(line.measures[measure]) for line in judged]
        errors = [
            100 * _spread(value, float(np.sqrt(value.mean() * (1 - value.mean()) / test_images))) for value in values
        ]
        places = np.arange(len(values)) + 0.08 * (number - 1)
        left.errorbar(places, [100 * value.mean() for value in values], yerr=errors, label=name, marker="o", capsize=3)
    left.set_ylabel("top-1 on the test images, %")
    losses = [np.array(line.measures["held-out"]) for line in judged]
    right.errorbar(
        range(len(losses)),
        [loss.mean() for loss in losses],
        yerr=[_spread(loss, 0.0) for loss in losses],
        marker="o",
        capsize=3,
        color="#444444",
    )
    right.set_ylabel("alignment loss, test images")
    for axes in (left, right):
        axes.set_xticks(range(len(counts)), [_label(count, counts) for count in counts])
        axes.set_xlabel("cached views per image")
        axes.grid(axis="y", color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=9, loc="outside upper left", ncols=3)
    FigureCanvasAgg(figure).print_png(str(file))  # type: ignore[no-untyped-call]


def _spread(values: NDArray[np.float64], of_one: float) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else of_one


if __name__ == "__main__":
    end_with_a_sentence(main)
