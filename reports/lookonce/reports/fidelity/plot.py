"""A plot of the loss of each precision against its size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from lookonce.cache.show.picture_file import write_picture
from lookonce.reports.fidelity.report import PrecisionFidelity

_INK, _ERROR, _GRADIENT = "#222222", "#1f5fa8", "#c8641e"


def draw_fidelity(precisions: Mapping[str, PrecisionFidelity], title: str, file: Path) -> None:
    """Plot error and change of the gradient against bytes per view, both axes logarithmic.

    Args:
        precisions: at least one, by name.
        title: title of the plot.
        file: the picture to write; its suffix names the format, see ``picture_file``.

    Raises:
        UsageError: the suffix is not that of a picture format.
        StorageError: the file cannot be written.
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xscale="log", yscale="log")
    _points(axes, precisions, "gradient_change", _GRADIENT, "s", "change of the stand-in student's gradient")
    _points(axes, precisions, "relative_error_bulk", _ERROR, "o", "relative error, bulk channels")
    _label(axes, precisions)
    _style(axes, sorted({entry.target_bytes for entry in precisions.values()}))
    figure.suptitle(title, fontsize=10, color=_INK, parse_math=False)
    FigureCanvasAgg(figure)
    write_picture(figure, file)


def _points(
    axes: Axes, precisions: Mapping[str, PrecisionFidelity], measure: str, colour: str, marker: str, label: str
) -> None:
    entries = precisions.values()
    axes.scatter(
        [entry.target_bytes for entry in entries],
        [getattr(entry, measure) for entry in entries],
        color=colour,
        marker=marker,
        s=36,
        label=label,
        zorder=3,
    )


def _label(axes: Axes, precisions: Mapping[str, PrecisionFidelity]) -> None:
    """Names beside the points, errors on the right and gradients on the left, so that they do not overlap."""
    for measure, colour, offset, side in (
        ("relative_error_bulk", _ERROR, 7, "left"),
        ("gradient_change", _GRADIENT, -7, "right"),
    ):
        for name, entry in precisions.items():
            axes.annotate(
                f"{name}  {100 * getattr(entry, measure):.2g} %",
                (entry.target_bytes, getattr(entry, measure)),
                xytext=(offset, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=8,
                color=colour,
            )


def _style(axes: Axes, sizes: list[float]) -> None:
    axes.set_xlim(sizes[0] / 1.7, sizes[-1] * 1.7)  # room for the labels
    axes.margins(y=0.1)
    axes.xaxis.set_major_locator(LogLocator(subs=()))
    axes.set_xticks(sizes, [f"{size / 1000:,.1f} kB" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("bytes per view, targets alone")
    axes.grid(alpha=0.3, which="major")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", fontsize=8, frameon=False)
