"""Draws the pictures of a run: the mixing matrix W and the loss curve."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lookonce.shared.files.atomic import atomic_file


def draw_mixture(
    weight: NDArray[np.float32],
    initial: NDArray[np.float32],
    path: Path,
    *,
    student: str,
    teacher: str,
    teacher_blocks: Sequence[int],
) -> None:
    """Draw the mixing matrix W and its change since the start as two heat maps.

    Args:
        weight: float32 (aligned levels, student blocks).
        initial: W before training, same shape.
        path: PNG file, written by rename.
        student: the student's name, for the title.
        teacher: the teacher's name, for the title.
        teacher_blocks: 1-based number of each row's teacher block.
    """
    levels, blocks = weight.shape
    figure = Figure(figsize=(max(9.0, 2.2 + 0.9 * blocks), 1.9 + 0.42 * levels), layout="constrained")
    figure.suptitle(_mixture_title(student, teacher), fontsize=11)
    left, right = figure.subplots(1, 2, sharey=True)
    _heat_map(figure, left, weight, "W: weight of each student block")
    _heat_map(figure, right, weight - initial, "change since the start")
    _name_rows(left, teacher, teacher_blocks)
    _save(figure, path)


def mixture_pixels(
    weight: NDArray[np.float32], *, student: str, teacher: str, teacher_blocks: Sequence[int]
) -> NDArray[np.uint8]:
    """W as a picture with axes; arguments as for :func:`draw_mixture`.

    Returns:
        uint8 (height, width, 3); for 5 levels and 12 blocks 440 x 850 pixels.
    """
    levels, blocks = weight.shape
    figure = Figure(figsize=(2.5 + 0.5 * blocks, 1.9 + 0.5 * levels), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    _heat_map(figure, axes, weight, _mixture_title(student, teacher))
    _name_rows(axes, teacher, teacher_blocks)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def _mixture_title(student: str, teacher: str) -> str:
    return f"{student}: its blocks mixed to match {teacher}"


def _name_rows(axes: Axes, teacher: str, teacher_blocks: Sequence[int]) -> None:
    axes.set_yticks(range(len(teacher_blocks)), [str(block) for block in teacher_blocks])
    axes.set_ylabel(f"block of {teacher}" if len(teacher) < 30 and len(teacher_blocks) > 4 else "teacher block")


def _heat_map(figure: Figure, axes: Axes, values: NDArray[np.float32], title: str) -> None:
    """Red is positive, blue negative; the title names the unit of small values, a power of ten."""
    exponent = int(np.floor(np.log10(float(np.abs(values).max()) or 1.0)))
    if exponent < -1:
        values, title = values / 10.0**exponent, f"{title}, in units of $10^{{{exponent}}}$"
    limit = float(np.abs(values).max()) or 1.0
    image = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_title(title, fontsize=10)
    axes.set_xticks(range(values.shape[1]), [str(block + 1) for block in range(values.shape[1])])
    axes.set_xlabel("student block")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.6 * limit else "#333333"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=colour)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2)


def draw_loss(
    metrics: Sequence[Mapping[str, Any]], level_labels: Mapping[str, str], path: Path, *, title: str, loss: str
) -> None:
    """Draw loss, loss of each level and learning rate over steps.

    Args:
        metrics: lines of ``metrics.jsonl``.
        level_labels: label of each level of ``level_loss`` in the legend.
        path: PNG file, written by rename.
        title: title of the picture.
        loss: name of the loss, for the axis.
    """
    count = len(level_labels) + 1
    figure = Figure(figsize=(9.5, max(4.0, 0.9 + 0.165 * count)), layout="constrained")
    axes = figure.add_subplot()
    steps = [line["step"] for line in metrics]
    marker = "o" if len(steps) < 3 else None  # a line needs two points
    for (level, label), (colour, dashes) in zip(level_labels.items(), level_styles(len(level_labels)), strict=True):
        values = [line["level_loss"][level] for line in metrics]
        axes.plot(steps, values, linewidth=1.0, color=colour, linestyle=dashes, marker=marker, ms=3, label=label)
    axes.plot(
        steps, [line["loss"] for line in metrics], color="black", linewidth=2.0, marker=marker, label="loss of the run"
    )
    axes.set_title(textwrap.fill(title, 72), fontsize=10)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(f"loss ({loss})")
    axes.grid(alpha=0.3)
    rate = axes.twinx()
    rates = [line["lr"] for line in metrics]
    rate.plot(steps, rates, color="grey", linestyle=":", linewidth=1.2, label="learning rate (right)")
    rate.set_ylabel("learning rate")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes.set_zorder(rate.get_zorder() + 1)
    axes.patch.set_visible(False)
    figure.legend(loc="outside right upper", fontsize=7.5)
    _save(figure, path)


def level_styles(count: int) -> list[tuple[tuple[float, float, float], str]]:
    """Colour (RGB, 0 to 1) and line style of each level: all colours differ, and neighbours differ in style, too.

    >>> len({colour for colour, _ in level_styles(24)})
    24
    """
    colours = colormaps["turbo"](np.linspace(0.04, 0.96, max(count, 2)))[:, :3] * 0.88  # darker on white
    styles = ("-", "--", "-.")
    return [
        ((float(red), float(green), float(blue)), styles[number % 3])
        for number, (red, green, blue) in enumerate(colours[:count])
    ]


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    with atomic_file(path) as handle:
        handle.write(buffer.getvalue())
