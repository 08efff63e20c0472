"""Pictures a run leaves: the mixing matrix W and the loss curve."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lookonce.shared.atomic import atomic_file


def draw_mixture(
    weight: NDArray[np.float32], initial: NDArray[np.float32], teacher_blocks: Sequence[int], path: Path
) -> None:
    """The mixing matrix W and, beside it, what training changed: two heat maps.

    Args:
        weight: float32 (aligned levels, student blocks).
        initial: W before training, same shape.
        teacher_blocks: 1-based number of each row's teacher block.
        path: PNG file, written by rename.
    """
    levels, blocks = weight.shape
    figure = Figure(figsize=(max(7.0, 2.2 + 0.9 * blocks), 1.7 + 0.42 * levels), layout="constrained")
    figure.suptitle("Dynamic alignment: student blocks mixed into teacher blocks", fontsize=11)
    left, right = figure.subplots(1, 2, sharey=True)
    _heat_map(figure, left, weight, "W")
    _heat_map(figure, right, weight - initial, "change since the start")
    left.set_yticks(range(levels), [str(block) for block in teacher_blocks])
    left.set_ylabel("teacher block")
    _save(figure, path)


def _heat_map(figure: Figure, axes: Axes, values: NDArray[np.float32], title: str) -> None:
    """Red is positive, blue negative; small values are shown in units of a power of ten, which the title names."""
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


def mixture_pixels(weight: NDArray[np.float32], cell: int = 24) -> NDArray[np.uint8]:
    """W as a small picture, a square a number: red is positive, blue negative, white 0; uint8 (L * cell, S * cell, 3).

    >>> mixture_pixels(np.array([[1.0, -1.0, 0.0]], dtype=np.float32), cell=1).tolist()
    [[[255, 0, 0], [0, 0, 255], [255, 255, 255]]]
    """
    share = weight / (float(np.abs(weight).max()) or 1.0)
    fade = 1 - np.abs(share)
    colours = np.stack([np.where(share >= 0, 1.0, fade), fade, np.where(share <= 0, 1.0, fade)], axis=-1)
    pixels = np.round(255 * colours).astype(np.uint8)
    return pixels.repeat(cell, axis=0).repeat(cell, axis=1)


def draw_loss(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss and learning rate over steps, from the lines of ``metrics.jsonl``."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    steps = [line["step"] for line in metrics]
    for level in metrics[0]["level_loss"] if metrics else ():
        values = [line["level_loss"][level] for line in metrics]
        axes.plot(steps, values, linewidth=0.8, alpha=0.6, label=f"teacher block {level}")
    axes.plot(steps, [line["loss"] for line in metrics], color="black", linewidth=1.6, label="loss")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    rate = axes.twinx()
    rate.plot(steps, [line["lr"] for line in metrics], color="tab:orange", linestyle=":", linewidth=1)
    rate.set_ylabel("learning rate (dotted)")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes.set_zorder(rate.get_zorder() + 1)  # the legend covers both curves
    axes.patch.set_visible(False)
    axes.legend(fontsize=7, ncols=2)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    with atomic_file(path) as handle:
        handle.write(buffer.getvalue())
