"""Pictures a run leaves: the mixing matrix W and the loss curve."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lookonce.shared.atomic import atomic_file


def draw_mixture(weight: NDArray[np.float32], teacher_blocks: Sequence[int], path: Path) -> None:
    """The mixing matrix W as a heat map.

    Args:
        weight: float32 (aligned levels, student blocks).
        teacher_blocks: 1-based number of each row's teacher block.
        path: PNG file, written by rename.
    """
    levels, blocks = weight.shape
    figure = Figure(figsize=(1.6 + 0.55 * blocks, 1.5 + 0.45 * levels), layout="constrained")
    axes = figure.add_subplot()
    limit = float(np.abs(weight).max()) or 1.0
    image = axes.imshow(weight, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(blocks), [str(block + 1) for block in range(blocks)])
    axes.set_yticks(range(levels), [str(block) for block in teacher_blocks])
    axes.set_xlabel("student block")
    axes.set_ylabel("teacher block")
    axes.set_title("Dynamic alignment: weight of each student block", fontsize=10)
    for (row, column), value in np.ndenumerate(weight):
        colour = "white" if abs(value) > 0.6 * limit else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=axes, fraction=0.03)
    _save(figure, path)


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
    axes.legend(fontsize=7, ncols=2)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    with atomic_file(path) as handle:
        handle.write(buffer.getvalue())
