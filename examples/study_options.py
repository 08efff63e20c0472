"""Command lines of the studies, and ``--quick``: tiny random images and a tiny random teacher."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tyro
from PIL import Image
from study import Study

from lookonce.api import LookonceError

S = TypeVar("S", bound=Study)

QUICK: dict[str, Any] = {
    "teacher": "timm:test_vit",
    "student": "test_vit",
    "view_size": 64,
    "epochs": 2,
    "batch_size": 4,
    "device": "cpu",
}


def study_options(kind: type[S], description: str | None, arguments: list[str] | None) -> S:
    """Read a study's flags; ``--quick`` replaces images, teacher, student and sizes by the smallest ones that run.

    Args:
        kind: class of the study's options.
        description: its module's docstring.
        arguments: command line; None for ``sys.argv[1:]``.
    """
    options = tyro.cli(kind, description=description, args=arguments, config=(tyro.conf.FlagCreatePairsOff,))
    if not options.quick:
        return options
    images, weights = options.out / "quick" / "images", options.out / "quick" / "teacher.safetensors"
    _write_images(images)
    _write_teacher(weights)
    return replace(options, images=images, teacher_weights=weights, **QUICK)


def end_with_a_sentence(main: Callable[[], None]) -> None:
    """Run a study as a script; print an error of lookonce as one sentence, without a traceback."""
    try:
        main()
    except LookonceError as error:
        sys.exit(f"error: {error}")


def _write_images(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for number in range(2 * count):
            file = folder / split / f"class{number % 2}" / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (72, 80, 3), dtype=np.uint8)
            if not file.exists():  # a resumed extraction refuses images whose time of change differs
                Image.fromarray(pixels).save(file)


def _write_teacher(file: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model("test_vit", num_classes=0).state_dict(), file)
