"""The pictures of the documentation, except those of results.md, from scikit-learn's digits.

    python examples/documentation_pictures.py [--out docs/pictures] [--work pictures-work]

Trains the demo's small teacher on handwritten digits, extracts a cache, trains a student, and draws the pictures.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from demo_digits import write_digits
from demo_teacher import train_teacher
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from lookonce.api import (
    BatchConfig,
    CachedTargets,
    ExtractionConfig,
    TrainingConfig,
    draw_cache,
    extract_features,
    open_cache,
    train_student,
    unpatchify,
)

TEACHER, VIEW_SIZE, TEACHER_EPOCHS = "test_vit", 112, 12
BLUE, ORANGE, GREEN, INK = "#dbe7f6", "#fbe5cf", "#dcefdc", "#222222"
SHOWN = "digit-6/0322.png"
MASKS: tuple[Literal["random", "attentive", "hide-attentive"], ...] = ("random", "attentive", "hide-attentive")
DPI = 130


def draw_stages(file: Path) -> None:
    """The two stages and the cache between them."""
    figure = Figure((8.6, 3.1))
    axes = _blank(figure, (0, 0, 1, 1), (0, 86), (0, 31))
    _box(axes, 1, 12, 13, 9, "images", "seen by stage 1 only", BLUE)
    _box(axes, 20, 12, 17, 9, "frozen teacher", "one forward pass per view", ORANGE)
    _box(axes, 43, 9, 18, 15, "cache", "targets of 5 blocks\nimportance\nthe views\nzarr v3 + receipts", GREEN)
    students = (
        (21, "student A", "dynamic alignment"),
        (11, "student B", "other masks"),
        (1, "student C", "another loss"),
    )
    for y, name, note in students:
        _box(axes, 69, y, 16, 8, name, note, BLUE)
        _arrow(axes, (61.5, 16.5), (68.5, y + 4))
    _arrow(axes, (14.5, 16.5), (19.5, 16.5))
    _arrow(axes, (37.5, 16.5), (42.5, 16.5))
    stages = (
        (19, 27, "stage 1: extract-features\nonce per augmentation seed"),
        (
            52,
            4,
            "stage 2: train-student\nany number of times, without the teacher",
        ),
    )
    for x, y, text in stages:
        axes.text(x, y, text, ha="center", va="center", fontsize=9)
    _save(figure, file)


def draw_masks(cache: Path, file: Path) -> None:
    """One view, its importance, and one mask of each kind."""
    reader = open_cache(cache)
    seed = reader.seeds[0]
    keys = reader.column("key", seed).tolist()
    row = keys.index(SHOWN)
    recipe = reader.manifest.recipe
    pixels = unpatchify(reader.read("pixels", [seed], [row]), recipe.patch_size)[0]
    importance = reader.read("importance", [seed], [row])
    side = int(np.sqrt(recipe.patches))
    figure = Figure((8.6, 2.1))
    panels: list[tuple[str, Any]] = [("view", pixels), ("importance", importance.reshape(side, side))]
    for kind in MASKS:
        whole = BatchConfig(shards=(cache,), batch_size=len(keys), epochs=1, mask=kind, seeds=str(seed))
        batches = CachedTargets(whole)  # one batch
        place = batches.keys(0).index((SHOWN, seed))
        shown = np.zeros(recipe.patches, bool)
        shown[next(iter(batches))["visible_ids"][place].numpy()] = True
        scale = recipe.patch_size
        mask = np.kron(shown.reshape(side, side), np.ones((scale, scale), bool))
        panels.append((kind, np.where(mask[..., None], pixels, np.uint8(200))))
    for number, (title, content) in enumerate(panels):
        axes = figure.add_axes((0.01 + 0.198 * number, 0.02, 0.188, 0.85))
        axes.imshow(content, cmap="inferno" if content.ndim == 2 else None, interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    _save(figure, file)


def draw_break_even(file: Path) -> None:
    """Teacher passes per image, online and cached, over the number of experiments; counted, not measured."""
    figure = Figure((6.2, 3.0))
    axes = figure.add_axes((0.11, 0.17, 0.86, 0.78))
    experiments = np.arange(1, 11)
    axes.plot(experiments, 200 * experiments, color="#c0504d", marker="o", label="teacher online, 200 epochs each")
    for seeds, color in ((200, "#9bbb59"), (8, "#4f81bd")):
        axes.plot(experiments, np.full(10, seeds), color=color, marker="o", label=f"cache of {seeds} seeds")
    axes.set_yscale("log")
    axes.set_xlabel("experiments that share the cache")
    axes.set_ylabel("teacher passes per image")
    axes.legend(frameon=False, fontsize=9, loc=(0.5, 0.2))
    axes.grid(alpha=0.3)
    _save(figure, file)


def _blank(figure: Figure, place: tuple[float, ...], width: tuple[int, int], height: tuple[int, int]) -> Axes:
    axes: Axes = figure.add_axes(place)  # type: ignore[arg-type]
    axes.set_xlim(*width)
    axes.set_ylim(*height)
    axes.set_axis_off()
    return axes


def _box(axes: Axes, x: float, y: float, width: float, height: float, name: str, note: str, color: str) -> None:
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.3,rounding_size=1", facecolor=color, edgecolor=INK)
    )
    middle = x + width / 2
    axes.text(middle, y + height - 2.2, name, ha="center", va="center", fontsize=10.5, fontweight="bold", color=INK)
    axes.text(middle, y + (height - 3) / 2, note, ha="center", va="center", fontsize=8, color=INK)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=INK, linewidth=1.2))


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, dpi=DPI)
    _shrink(file)


def _shrink(file: Path, width: int = 1120) -> None:
    """Reduce colours and pixels to what a page shows."""
    image = Image.open(file).convert("RGB")
    image.thumbnail((width, width))
    image.quantize(256).save(file, optimize=True)


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--work", type=Path, help="keep digits, cache and run here (default: a temporary folder)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    draw_stages(given.out / "stages.png")
    draw_break_even(given.out / "break-even.png")
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        make_cache_and_run(work)
        draw_masks(work / "cache", given.out / "masks.png")
        draw_cache(work / "cache", given.out / "views.png", samples=4)
        shutil.copy(work / "run" / "alignment.png", given.out / "mixture.png")
    for name in ("views.png", "mixture.png"):
        _shrink(given.out / name, 900)


def make_cache_and_run(work: Path) -> None:
    """Make digits, teacher, cache and student, as in the demo; existing ones are kept."""
    weights = work / "teacher.safetensors"
    if not weights.is_file():
        write_digits(work / "digits")
        train_teacher(work / "digits", weights, name=TEACHER, view_size=VIEW_SIZE, epochs=TEACHER_EPOCHS)
    extract_features(
        ExtractionConfig(
            teacher=f"timm:{TEACHER}",
            teacher_weights=weights,
            images=str(work / "digits" / "train"),
            seeds="0-1",
            out=work / "cache",
            view_size=VIEW_SIZE,
            executor="inline",
        )
    )
    train_student(
        TrainingConfig(
            shards=(work / "cache",), out=work / "run", student=TEACHER, epochs=12, batch_size=128, base_lr=4e-3
        )
    )


if __name__ == "__main__":
    main()
