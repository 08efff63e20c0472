"""Choices of the extraction pipeline: how fast each alternative is, and how it changes the features.

    python benchmarks/extract_choices.py [--quick] [--json FILE]

Real photographs (../shared/data/photos, or LOOKONCE_DATA_DIR), DeiT-Tiny with its weights, a ViT-B/16 with random ones.

- ``draft``: libjpeg-turbo decodes at half scale where the crop is at least twice the view in both directions. How many
  views that touches, what the views cost with and without, and how much the targets of touched views change.
- ``processes``: views made in a pool of processes and sent back, against the pool of threads, as many as cores.
- ``channels_last``, ``compile``: the forward on one core in that memory format, and through ``torch.compile``.
"""

from __future__ import annotations

import copy
import io
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extract import CORES, DATA, random_vit_base
from harness import alternate, arguments, ratio, report
from numpy.typing import NDArray
from PIL import Image

from lookonce.extract.teachers import load_teacher, resolve_teacher
from lookonce.extract.teachers.teacher import Teacher
from lookonce.shared.images.decode import decode_rgb
from lookonce.shared.views import ViewParameters, ViewRecipe, apply_view, draw_view

RECIPE = ViewRecipe()


def drawn(path: Path, seed: int) -> ViewParameters:
    with Image.open(path) as image:
        width, height = image.size
    return draw_view(RECIPE, key=path.name, seed=seed, source_height=height, source_width=width)


def touched(view: ViewParameters) -> bool:
    """Whether a crop decoded at half scale still has at least one pixel for each pixel of the view."""
    return min(view.height, view.width) >= 2 * RECIPE.size


def full(path: Path, seed: int) -> NDArray[np.uint8]:
    """What lookonce does."""
    image = decode_rgb(path.read_bytes(), path.name)
    view = draw_view(RECIPE, key=path.name, seed=seed, source_height=image.height, source_width=image.width)
    return apply_view(image, view, RECIPE.size)


def drafted(path: Path, seed: int) -> NDArray[np.uint8]:
    """The same by a decoder at half scale where the crop allows it."""
    image = Image.open(io.BytesIO(path.read_bytes()))
    width, height = image.size
    view = draw_view(RECIPE, key=path.name, seed=seed, source_height=height, source_width=width)
    if not touched(view) or image.format != "JPEG":
        return full(path, seed)
    image.draft("RGB", (width // 2, height // 2))
    across, down = image.size[0] / width, image.size[1] / height
    box = (view.left * across, view.top * down, (view.left + view.width) * across, (view.top + view.height) * down)
    cut = image.convert("RGB").resize((RECIPE.size, RECIPE.size), Image.Resampling.BICUBIC, box=box)
    return np.array(cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else cut, np.uint8)


def cut_all(pool: Executor, paths: list[Path], cut: Callable[[Path, int], NDArray[np.uint8]], seed: int) -> int:
    for _ in pool.map(cut, paths, [seed] * len(paths), chunksize=8):
        pass
    return len(paths)


def looking(look: Callable[[torch.Tensor], Any], views: torch.Tensor) -> Callable[[], int]:
    def job() -> int:
        torch.set_num_threads(1)
        with torch.inference_mode():
            look(views)
        return len(views)

    return job


@torch.inference_mode()
def relative_change(teacher: Teacher, pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> float | None:
    """Relative error of the targets, median over pairs of views; None without any."""
    if not pairs:
        return None
    errors = []
    for one, other in pairs:
        wanted, found = (teacher.extract(torch.from_numpy(view)[None]).targets for view in (one, other))
        errors.append(float((found - wanted).norm() / wanted.norm()))
    return statistics.median(errors)


def main() -> None:
    options = arguments(str(__doc__).splitlines()[0])
    if not DATA.is_dir():
        sys.exit(f"no photographs at {DATA}: set LOOKONCE_DATA_DIR")
    rounds, seeds = (2, 20) if options.quick else (5, 200)
    paths = sorted((DATA / "photos").glob("*.jpg"))
    weights = DATA / "deit_tiny_patch16_224.safetensors"
    spec: dict[str, Any] = {"view_size": 224, "patch_size": 16, "blocks": "top5"}
    tiny = load_teacher(resolve_teacher("deit-tiny"), weights=weights, **spec)
    with tempfile.TemporaryDirectory(dir=os.environ.get("LOOKONCE_BENCH_DIR")) as folder:
        base_weights = random_vit_base(Path(folder) / "base.safetensors")
        base = load_teacher(resolve_teacher("timm:vit_base_patch16_224"), weights=base_weights, **spec)
    views = torch.from_numpy(np.stack([full(path, 0) for path in paths[:8]]))
    teachers = {"deit_tiny": (tiny, views), "vit_base": (base, views[:4])}
    all_views = [(path, seed) for path in paths for seed in range(seeds)]
    some = [(path, seed) for path, seed in all_views if touched(drawn(path, seed))]
    ratios: dict[str, Any] = {"draft_touched_share": len(some) / len(all_views)}
    step = max(1, len(some) // 32)
    ratios["draft_change_of_touched"] = relative_change(tiny, [(full(*one), drafted(*one)) for one in some[::step]])
    large = sorted({path for path, _ in some})
    contestants: dict[str, Callable[[], int]] = {}
    with (
        ThreadPoolExecutor(CORES) as threads,
        ProcessPoolExecutor(CORES, mp_context=get_context("forkserver")) as processes,
    ):
        for name, pool, cut in (
            ("views, threads", threads, full),
            ("views, threads, draft", threads, drafted),
            ("views, processes", processes, full),
        ):
            contestants[name] = lambda pool=pool, cut=cut: cut_all(pool, paths, cut, 1)
        for name, cut in (("large views", full), ("large views, draft", drafted)):
            contestants[name] = lambda cut=cut: cut_all(threads, large * 4, cut, 1)
        rates = alternate(contestants, rounds)
    for name, (teacher, batch) in teachers.items():
        rates |= alternate(
            {
                f"{name}, eager": looking(teacher, batch),
                f"{name}, compiled": looking(torch.compile(teacher), batch),
                f"{name}, channels_last": looking(copy.deepcopy(teacher).to(memory_format=torch.channels_last), batch),
            },
            rounds,
        )
        for choice in ("compiled", "channels_last"):
            ratios[f"{choice}_over_eager_{name}"] = ratio(rates, f"{name}, {choice}", f"{name}, eager")
    ratios |= {
        "draft_over_full": ratio(rates, "views, threads, draft", "views, threads"),
        "draft_over_full_large": ratio(rates, "large views, draft", "large views"),
        "processes_over_threads": ratio(rates, "views, processes", "views, threads"),
    }
    report("extract_choices", options, ratios, rates, "views/s")


if __name__ == "__main__":
    main()
