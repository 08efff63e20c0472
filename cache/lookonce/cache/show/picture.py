"""Draws a picture of a cache: views, importance, visible patches, and principal components of the targets."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.cache.show.picture_file import picture_format, write_picture
from lookonce.cache.show.picture_samples import ShownSamples, shown_samples
from lookonce.shared.errors import IncompleteCacheError, UsageError
from lookonce.storage_schemas.manifest import Manifest
from lookonce.storage_schemas.tokens import TopTokens, VisibleTokens

MASK_RATIO = 0.7
"""Share of hidden patches in the drawn masks, that of the released recipe."""

_PANEL, _TITLE, _HEAD, _FOOT, _EDGE, _GAP = 2.1, 0.2, 0.28, 0.52, 0.08, 0.05
"""In inches: side of a panel, title of a row, column headings, legend, outer edge, gap between panels."""
_COLUMNS, _DPI = 4, 150
_INK, _HIDDEN = "#222222", 0.66
_HEAT = colormaps["inferno"]


def draw_cache(root: Path, file: Path, *, samples: int = 6) -> int:
    """Draw some samples of the complete seeds of a cache.

    Args:
        root: the cache folder.
        file: file of the picture; its suffix is the format, see ``picture_file``.
        samples: rows of the picture, at least 1; at most the samples of the cache are drawn.

    Returns:
        The number of drawn samples.

    Raises:
        UsageError: ``samples`` is below 1, or the suffix is not a picture format.
        CacheError: there is no cache, no complete seed, or an object is damaged.
        StorageError: the file cannot be written.
    """
    picture_format(file, "picture")
    if samples < 1:
        raise UsageError(f"samples: expected at least 1, found {samples}")
    layout = CacheLayout(root)
    manifest = layout.load_manifest()
    seeds = layout.complete_seeds(manifest.shard_count)
    if not seeds:
        raise IncompleteCacheError(
            f"{root}: no seed has all of its {manifest.shard_count} shards, so there is nothing to draw yet; "
            "run extract-features again to resume"
        )
    shown = shown_samples(CacheReader(root, seeds=seeds), min(samples, manifest.samples * len(seeds)), MASK_RATIO)
    figure = _figure(shown, manifest)
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # keys may use any script
        write_picture(figure, file)
    return len(shown.titles)


def _figure(shown: ShownSamples, manifest: Manifest) -> Figure:
    page = _Page(len(shown.titles))
    block = manifest.recipe.teacher.blocks[-1]
    for column, heading in enumerate(("view", "importance", "visible to the student", f"targets of block {block}")):
        page.text(column, 0.5 * _HEAD, heading, size=10, weight="bold")
    scale = PowerNorm(0.5, 0, max(float(np.percentile(shown.importance, 99.5)), 1e-12))
    for row, title in enumerate(shown.titles):
        page.title(row, title)
        for column, image in enumerate(_panels(shown, row, scale)):
            axes = page.panel(row, column)
            if image is None:
                axes.text(
                    0.5, 0.5, "views are not stored\nin this cache", ha="center", va="center", size=8, color="#777777"
                )
            else:
                axes.imshow(image, interpolation="nearest", extent=(0, 1, 0, 1), aspect="auto")
    visible, patches = int(shown.visible[0].sum()), manifest.recipe.patches
    page.foot(0, f"{manifest.recipe.view_size} px, {patches} patches of {manifest.recipe.patch_size} px")
    page.legend(1, scale, "class attention; 1 = an average patch")
    tokens, stored = manifest.recipe.tokens, manifest.recipe.stored_patches
    drawn = f"{tokens.mask} mask, fixed at extraction:\n" if isinstance(tokens, VisibleTokens) else "attentive mask: "
    inside = f"\namong the {stored} stored ones" if isinstance(tokens, TopTokens) else ""
    page.foot(2, f"{drawn}{visible} of {patches} patches{inside}")
    page.foot(3, "three principal components as RGB,\nover all patches shown")
    return page.figure


def _panels(shown: ShownSamples, row: int, scale: Normalize) -> tuple[NDArray[Any] | None, ...]:
    """The four images of a row, RGB in 0..1; the first is None if views are not stored."""
    view = None if shown.views is None else shown.views[row].astype(np.float32) / 255
    heat = _HEAT(scale(shown.importance[row]))[..., :3].astype(np.float32)
    visible = shown.visible[row][..., None]
    if view is None:
        return None, heat, np.where(visible, heat, _HIDDEN), shown.components[row]
    patch = view.shape[0] // len(heat)
    grey = view @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    overlaid = 0.4 * grey[..., None] + 0.6 * _enlarged(heat, patch)
    ghost = _HIDDEN + 0.16 * (grey[..., None] - 0.5)
    return view, overlaid, np.where(_enlarged(visible, patch), view, ghost), shown.components[row]


def _enlarged(image: NDArray[Any], factor: int) -> NDArray[Any]:
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


class _Page:
    """Places panels and texts on a figure; all lengths are in inches from its top left corner."""

    def __init__(self, rows: int) -> None:
        self._width = 2 * _EDGE + _COLUMNS * _PANEL + (_COLUMNS - 1) * _GAP
        self._height = _HEAD + rows * (_PANEL + _TITLE) + _FOOT
        self.figure = Figure(figsize=(self._width, self._height), dpi=_DPI, facecolor="white")

    def panel(self, row: int, column: int) -> Axes:
        top = _HEAD + row * (_PANEL + _TITLE) + _TITLE
        return self._axes(column, top, _PANEL, _PANEL)

    def title(self, row: int, text: str) -> None:
        y = _HEAD + row * (_PANEL + _TITLE) + 0.55 * _TITLE
        self.figure.text(
            _EDGE / self._width, 1 - y / self._height, text, va="center", size=8, color=_INK, parse_math=False
        )

    def text(self, column: int, y: float, text: str, **style: Any) -> None:
        x = _EDGE + column * (_PANEL + _GAP) + _PANEL / 2
        self.figure.text(x / self._width, 1 - y / self._height, text, ha="center", va="center", color=_INK, **style)

    def foot(self, column: int, text: str) -> None:
        self.text(column, self._height - 0.5 * _FOOT, text, size=7.5)

    def legend(self, column: int, scale: Normalize, text: str) -> None:
        axes = self._axes(column, self._height - _FOOT + 0.07, 0.9 * _PANEL, 0.09)
        bar = self.figure.colorbar(ScalarMappable(scale, _HEAT), cax=axes, orientation="horizontal", extend="max")
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7, length=2, pad=1, colors=_INK)
        bar.set_ticks([tick for tick in (0, 1, 3, 6, 10, 20, 50) if tick <= (scale.vmax or 0)])
        self.text(column, self._height - 0.09, text, size=7.5)

    def _axes(self, column: int, top: float, width: float, height: float) -> Axes:
        left = _EDGE + column * (_PANEL + _GAP) + (_PANEL - width) / 2
        bottom = self._height - top - height
        box = (left / self._width, bottom / self._height, width / self._width, height / self._height)
        axes = self.figure.add_axes(box)
        axes.set(xticks=[], yticks=[], facecolor=(_HIDDEN,) * 3)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes
