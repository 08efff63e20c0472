"""Recipes: whole training runs by name. The head of each file has its commands, expected time and expected score.

Open ``released.py`` first: the common part of MaskAlign's released recipes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lookonce.shared.errors import UsageError
from lookonce.train.config import TrainingConfig
from lookonce.train.names import require_known
from lookonce.train.recipes import (
    flowers_tiny_deit_tiny,
    maskalign_b_clip_b16,
    maskalign_b_dino_b16,
    maskalign_l_clip_b16,
    maskalign_l_clip_l14,
)

Recipe = Callable[[tuple[Path, ...], Path], TrainingConfig]
"""Takes the caches and the folder of the run; returns its config, which ``dataclasses.replace`` may change."""

RECIPES: dict[str, Recipe] = {
    "maskalign-b-clip-b16": maskalign_b_clip_b16.config,
    "maskalign-l-clip-b16": maskalign_l_clip_b16.config,
    "maskalign-l-clip-l14": maskalign_l_clip_l14.config,
    "maskalign-b-dino-b16": maskalign_b_dino_b16.config,
    "flowers-tiny-deit-tiny": flowers_tiny_deit_tiny.config,
}
"""All recipes, by the name that ``train-student --recipe`` takes."""


def recipe_config(name: str, shards: tuple[Path, ...], out: Path) -> TrainingConfig:
    """The config of a recipe.

    Args:
        name: name of the recipe.
        shards: cache folders.
        out: folder of the run.

    Raises:
        UsageError: unknown recipe, or a file; the message lists all.

    >>> recipe_config("maskalign-b-clip-b16", (Path("cache"),), Path("run")).epochs
    200
    """
    if Path(name).is_file():
        raise UsageError(
            f"--recipe {name}: is a file, expected the name of a recipe: {', '.join(RECIPES)}; give your own values as "
            "flags, or as a [[run]] of a --sweep file"
        )
    name = name.replace("_", "-")  # the files' names
    require_known("recipe", name, RECIPES)
    return RECIPES[name](shards, out)
